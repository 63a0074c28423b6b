"""T3's scheduler: continuous batching on a thread of its own.

    async for output in scheduler.generate(request, max_lead_tokens)     once per text chunk

Sequences join and leave between steps. Back-pressure: a sequence whose reader is `max_lead_tokens`
behind is left out of the batch until it is read, so that S3Gen gets that time.
"""

import asyncio
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager

from app.engines.cancellation import ignore_cancellation
from app.engines.chatterbox.t3.batch import T3Batch
from app.engines.chatterbox.t3.request import T3Request, TokenOutput


class _Sequence:
    def __init__(self, request: T3Request, max_lead_tokens: int) -> None:
        self.request = request
        self.outputs: asyncio.Queue[TokenOutput | Exception] = asyncio.Queue()
        self.released = asyncio.Event()
        self.closed = False  # set by the reader
        self.num_read = 0  # counted on the event loop
        self.num_emitted = 0  # counted on the scheduler's thread
        self.max_lead_tokens = max_lead_tokens
        self.loop = asyncio.get_running_loop()

    @property
    def throttled(self) -> bool:
        return self.num_emitted - self.num_read >= self.max_lead_tokens


class T3Scheduler:
    """Calls `bind_thread` on its thread first, `trim_memory` after each admission."""

    def __init__(
        self,
        batch: T3Batch,
        bind_thread: Callable[[], None] = lambda: None,
        trim_memory: Callable[[], None] = lambda: None,
    ) -> None:
        self.steps = 0
        self._batch = batch
        self._bind_thread = bind_thread
        self._trim_memory = trim_memory
        self._warm: Future[None] = Future()
        self._inbox: queue.SimpleQueue[_Sequence | None] = queue.SimpleQueue()  # None: wake up
        self._queued: list[_Sequence] = []
        self._running: dict[int, _Sequence] = {}
        self._outbox: list[tuple[_Sequence, TokenOutput | Exception | None]] = []
        self._closing = False
        self._pauses = 0
        self._thread = threading.Thread(target=self._run, name="t3", daemon=True)
        self._thread.start()

    async def warm(self) -> None:
        """Wait for the end of the warm-up. Raises its error, after which nothing else works."""
        await asyncio.shield(asyncio.wrap_future(self._warm))

    async def generate(
        self, request: T3Request, max_lead_tokens: int
    ) -> AsyncGenerator[TokenOutput, None]:
        """Yield a text chunk's outputs; the last has a finish reason. Raises the batch's error.

        If closed or cancelled, it returns once the batch has released the sequence.
        """
        sequence = _Sequence(request, max_lead_tokens)
        self._inbox.put(sequence)
        try:
            while True:
                output = await sequence.outputs.get()
                sequence.num_read += 1
                if sequence.outputs.empty():
                    self._inbox.put(None)  # it may have been throttled
                if isinstance(output, Exception):
                    raise output
                yield output
                if output.finish_reason:
                    return
        finally:
            sequence.closed = True
            self._inbox.put(None)
            while not sequence.released.is_set():
                await ignore_cancellation(sequence.released.wait())

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, no step begins. To be used on the event loop."""
        self._pauses += 1
        try:
            yield
        finally:
            self._pauses -= 1
            self._inbox.put(None)

    def close(self) -> None:
        """End the thread; no sequence may be running."""
        self._closing = True
        self._inbox.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            self._bind_thread()
            for _ in self._batch.warm_up():
                self.steps += 1
                if self._closing:
                    return
        except Exception as error:  # noqa: BLE001 – raised by `warm`
            self._warm.set_exception(error)
            return
        self._warm.set_result(None)
        while not self._closing:
            self._receive()
            self._remove_closed()
            if not self._pauses:
                self._admit()
                self._step()
            self._flush()

    def _receive(self) -> None:
        """Empty the inbox; if there is nothing else to do, wait for it first."""
        busy = self._queued or not all(sequence.throttled for sequence in self._running.values())
        idle = self._pauses or not busy
        while idle or not self._inbox.empty():
            if sequence := self._inbox.get():
                self._queued.append(sequence)
            idle = False

    def _remove_closed(self) -> None:
        for slot, sequence in list(self._running.items()):
            if sequence.closed:
                self._finish(slot)
        for sequence in [sequence for sequence in self._queued if sequence.closed]:
            self._queued.remove(sequence)
            self._forget(sequence)

    def _admit(self) -> None:
        while self._queued and self._batch.free:
            sequence = self._queued.pop(0)
            try:
                slot = self._batch.admit(sequence.request)
            except Exception as error:  # noqa: BLE001 – one job's error: the others go on
                self._emit(sequence, error)
                self._forget(sequence)
            else:
                self._running[slot] = sequence
            self._trim_memory()

    def _step(self) -> None:
        throttled = {slot for slot, sequence in self._running.items() if sequence.throttled}
        if len(throttled) == len(self._running):
            return
        try:
            outputs = self._batch.step(throttled)
        except Exception as error:  # noqa: BLE001 – raised in each running job
            for slot, sequence in list(self._running.items()):
                self._emit(sequence, error)
                self._finish(slot)
            return
        self.steps += 1
        for slot, tokens in outputs.items():
            for output in tokens:
                self._emit(self._running[slot], output)
            if tokens[-1].finish_reason:
                self._finish(slot)

    def _finish(self, slot: int) -> None:
        self._batch.release(slot)
        self._forget(self._running.pop(slot))

    def _emit(self, sequence: _Sequence, output: TokenOutput | Exception) -> None:
        sequence.num_emitted += 1
        self._outbox.append((sequence, output))

    def _forget(self, sequence: _Sequence) -> None:
        self._outbox.append((sequence, None))

    def _flush(self) -> None:
        """Deliver the outbox in one call: each call wakes the event loop."""
        outbox, self._outbox = self._outbox, []
        if outbox:
            outbox[0][0].loop.call_soon_threadsafe(_deliver, outbox)


def _deliver(outbox: list[tuple[_Sequence, TokenOutput | Exception | None]]) -> None:
    for sequence, output in outbox:
        if output is None:
            sequence.released.set()
        else:
            sequence.outputs.put_nowait(output)
