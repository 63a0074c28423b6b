"""The thread on which T3 runs: text chunks of many jobs enter, each gets its tokens one by one.

    async for step in loop.speak(request, ahead)      on the event loop, one for each text chunk

First the batch is warmed up. Then all jobs advance in the same steps; they join between two of
them, and leave between two of them when they have ended or their generator is closed. A job that is
`ahead` tokens in front of its reader stands aside until it is read, so that T3 does not take from
S3Gen what nobody waits for. For the same reason all can be paused.
"""

import asyncio
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Protocol

from app.engines.cancellation import ignore_cancellation
from app.engines.chatterbox.t3.batch import Step, T3Request


class Batch(Protocol):
    """What the loop drives: `t3.T3Batch`, from this one thread only."""

    @property
    def free(self) -> int: ...
    def warm_up(self) -> Iterator[None]: ...
    def admit(self, request: T3Request) -> int: ...
    def step(self, waiting: frozenset[int]) -> dict[int, list[Step]]: ...
    def release(self, slot: int) -> None: ...


class _Turn:
    """One text chunk on its way through the batch."""

    def __init__(self, request: T3Request, ahead: int) -> None:
        self.request = request
        self.steps: asyncio.Queue[Step | Exception] = asyncio.Queue()
        self.gone = asyncio.Event()
        self.wanted = True
        self.read = 0  # counted on the event loop; `_told` on the thread
        self._told = 0
        self._ahead = ahead
        self.loop = asyncio.get_running_loop()

    @property
    def waits(self) -> bool:
        return self._told - self.read >= self._ahead

    def count(self) -> None:
        """One more step was told."""
        self._told += 1


def _nothing() -> None:
    pass


class T3Scheduler:
    """Owns the thread, on which `adopt` is called first, `tidy_up` after each admission.

    `steps` counts what the batch has done.
    """

    def __init__(
        self,
        batch: Batch,
        adopt: Callable[[], None] = _nothing,
        tidy_up: Callable[[], None] = _nothing,
    ) -> None:
        self.steps = 0
        self._batch = batch
        self._adopt = adopt
        self._tidy_up = tidy_up
        self._warm: Future[None] = Future()
        self._arrivals: queue.SimpleQueue[_Turn | None] = queue.SimpleQueue()
        self._queued: list[_Turn] = []
        self._running: dict[int, _Turn] = {}
        self._news: list[tuple[_Turn, Step | Exception | None]] = []
        self._closing = False
        self._pauses = 0
        self._thread = threading.Thread(target=self._run, name="t3", daemon=True)
        self._thread.start()

    async def warm(self) -> None:
        """Returns when the batch has warmed up. Raises what it raised: then all is over."""
        await asyncio.shield(asyncio.wrap_future(self._warm))

    async def speak(self, request: T3Request, ahead: int) -> AsyncGenerator[Step, None]:
        """The steps of one text chunk; the last has an ending. Raises what the batch raised.

        Closed or cancelled, it returns when the batch has let go of the job.
        """
        turn = _Turn(request, ahead)
        self._arrivals.put(turn)
        try:
            while True:
                step = await turn.steps.get()
                turn.read += 1
                if turn.steps.empty():
                    self._arrivals.put(None)  # if it waited for this, it may go on
                if isinstance(step, Exception):
                    raise step
                yield step
                if step.ending:
                    return
        finally:
            turn.wanted = False
            self._arrivals.put(None)
            while not turn.gone.is_set():
                await ignore_cancellation(turn.gone.wait())

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, no step begins. On the event loop, like everything that counts here."""
        self._pauses += 1
        try:
            yield
        finally:
            self._pauses -= 1
            self._arrivals.put(None)

    def close(self) -> None:
        """No turn may be under way; the thread ends."""
        self._closing = True
        self._arrivals.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            self._adopt()
            for _ in self._batch.warm_up():
                if self._closing:
                    return
        except Exception as error:  # noqa: BLE001 – told to whoever waits for it
            self._warm.set_exception(error)
            return
        self._warm.set_result(None)
        while not self._closing:
            self._take_arrivals()
            self._dismiss_unwanted()
            if not self._pauses:
                self._admit()
                self._step()
            self._post()

    def _take_arrivals(self) -> None:
        """What has arrived; waits for something if there is nothing else to do."""
        busy = self._queued or not all(turn.waits for turn in self._running.values())
        idle = self._pauses or not busy
        while idle or not self._arrivals.empty():
            if turn := self._arrivals.get():
                self._queued.append(turn)
            idle = False

    def _dismiss_unwanted(self) -> None:
        for slot, turn in list(self._running.items()):
            if not turn.wanted:
                self._dismiss(slot)
        for turn in [turn for turn in self._queued if not turn.wanted]:
            self._queued.remove(turn)
            self._leave(turn)

    def _admit(self) -> None:
        while self._queued and self._batch.free:
            turn = self._queued.pop(0)
            try:
                slot = self._batch.admit(turn.request)
            except Exception as error:  # noqa: BLE001 – a job's boundary: the others go on
                self._tell(turn, error)
                self._leave(turn)
            else:
                self._running[slot] = turn
            self._tidy_up()

    def _step(self) -> None:
        waiting = frozenset(slot for slot, turn in self._running.items() if turn.waits)
        if len(waiting) == len(self._running):
            return
        try:
            steps = self._batch.step(waiting)
        except Exception as error:  # noqa: BLE001 – the batch's boundary: each job is told
            for slot, turn in list(self._running.items()):
                self._tell(turn, error)
                self._dismiss(slot)
            return
        self.steps += 1
        for slot, said in steps.items():
            for step in said:
                self._tell(self._running[slot], step)
            if said[-1].ending:
                self._dismiss(slot)

    def _dismiss(self, slot: int) -> None:
        self._batch.release(slot)
        self._leave(self._running.pop(slot))

    def _tell(self, turn: _Turn, step: Step | Exception) -> None:
        turn.count()
        self._news.append((turn, step))

    def _leave(self, turn: _Turn) -> None:
        self._news.append((turn, None))

    def _post(self) -> None:
        """Tell all turns at once: each call on their event loop wakes it."""
        news, self._news = self._news, []
        if news:
            news[0][0].loop.call_soon_threadsafe(_deliver, news)


def _deliver(news: list[tuple[_Turn, Step | Exception | None]]) -> None:
    for turn, step in news:
        if step is None:
            turn.gone.set()
        else:
            turn.steps.put_nowait(step)
