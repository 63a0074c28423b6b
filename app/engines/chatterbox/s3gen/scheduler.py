"""Compute the audio of many jobs' slices with S3Gen, in batches on one thread.

    audio = await scheduler.decode(SliceTask(stream, tokens, last, deadline))    on the event loop

Earliest deadline first (EDF), in batches as large as the flow takes. A slice whose job is cancelled
is dropped; once its batch is being solved, it is given up at the next Euler step if all of the
batch is cancelled.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from app.engines.cancellation import wait_done
from app.engines.chatterbox.conditioning.conditionals import S3GenPrompt
from app.engines.chatterbox.s3gen.flow import OnStep
from app.engines.chatterbox.s3gen.stream import S3Gen, StreamDecoder

T = TypeVar("T")
P = ParamSpec("P")

FIRST_SLICE_DEADLINE = float("-inf")
"""Deadline of a job's first slice: its client has no audio to play yet."""


@dataclass(eq=False)
class SliceTask:
    """`tokens` that continue a `stream`. `deadline`: monotonic, in seconds.

    `audio`: float32 [samples], in main memory.
    """

    stream: StreamDecoder
    tokens: list[int]
    last: bool
    deadline: float
    audio: "Future[Tensor]" = field(default_factory=Future)
    cancelled: bool = False


class S3GenScheduler:
    """Owns the thread, which calls `bind_thread` first and `trim_memory` after each batch.

    `steps` counts the flow's Euler steps.
    """

    def __init__(
        self, s3gen: S3Gen, bind_thread: Callable[[], None], trim_memory: Callable[[], None]
    ) -> None:
        self.steps = 0
        self._s3gen = s3gen
        self._bind_thread = bind_thread
        self._trim_memory = trim_memory
        self._changed = threading.Condition()
        self._tasks: list[SliceTask] = []
        self._warm_up: tuple[S3GenPrompt, Future[None]] | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="s3gen", daemon=True)
        self._thread.start()

    async def warm_up(self, prompt: S3GenPrompt) -> None:
        """Run `S3Gen.warm_up` on the thread. Raises what that raises."""
        done: Future[None] = Future()
        with self._changed:
            self._warm_up = prompt, done
            self._changed.notify()
        await asyncio.shield(asyncio.wrap_future(done))

    async def decode(self, task: SliceTask) -> Tensor:
        """Return the audio that the slice adds to its stream. Raises what S3Gen raises.

        If cancelled, it returns once the thread no longer uses the stream.
        """
        with self._changed:
            self._tasks.append(task)
            self._changed.notify()
        try:
            return await asyncio.wrap_future(task.audio)
        finally:
            if not task.audio.done():
                task.cancelled = True
                await wait_done(task.audio)

    def close(self) -> None:
        """End the thread. No `decode` may be running."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        failure = _exception_of(self._bind_thread)
        while self._run_once(failure):
            pass

    def _run_once(self, failure: Exception | None) -> bool:
        """Run a warm-up or a batch; False when closing. `failure`: that of `bind_thread`."""
        with self._changed:
            self._changed.wait_for(lambda: self._tasks or self._warm_up or self._closing)
            if self._closing:
                return False
            warm_up, self._warm_up = self._warm_up, None
            batch = self._next_batch()
        if warm_up:
            prompt, done = warm_up
            if failure:
                done.set_exception(failure)
            else:
                _resolve(done, self._s3gen.warm_up, prompt)
        if batch:
            self._decode(batch)
            batch.clear()  # frees its tensors
            self._trim_memory()
        return True

    def _next_batch(self) -> list[SliceTask]:
        """Take the tasks with the earliest deadlines; they can no longer be dropped."""
        self._tasks.sort(key=lambda task: task.deadline)
        batch: list[SliceTask] = []
        while self._tasks and len(batch) < self._s3gen.flow.max_batch_size:
            task = self._tasks.pop(0)
            if task.audio.set_running_or_notify_cancel():
                batch.append(task)
        return batch

    @torch.inference_mode()
    def _decode(self, batch: list[SliceTask]) -> None:
        def on_step() -> None:
            self.steps += 1
            if all(task.cancelled for task in batch):
                raise _BatchCancelled

        try:
            device = self._s3gen.fade_in.device
            tokens = [torch.tensor(task.tokens, dtype=torch.int64, device=device) for task in batch]
            mels = self._solve(batch, tokens, on_step)
        except _BatchCancelled:
            for task in batch:
                task.audio.set_result(torch.empty(0))
        except Exception as error:  # noqa: BLE001 – raised by `decode`
            for task in batch:
                task.audio.set_exception(error)
        else:
            for task, new, mel in zip(batch, tokens, mels, strict=True):
                _resolve(task.audio, _commit, task, new, mel)

    def _solve(
        self, batch: list[SliceTask], tokens: list[Tensor], on_step: OnStep
    ) -> list[Tensor | None]:
        """The mel of each slice; None for slices without tokens."""
        items = [task.stream.prepare(new) for task, new in zip(batch, tokens, strict=True)]
        inputs = [item for item in items if item]
        mels = iter(self._s3gen.flow.solve(inputs, on_step) if inputs else [])
        return [next(mels) if item else None for item in items]


class _BatchCancelled(Exception):
    """All jobs of the batch were cancelled."""


def _commit(task: SliceTask, tokens: Tensor, mel: Tensor | None) -> Tensor:
    return task.stream.commit(tokens, mel, task.last).cpu()


def _exception_of(call: Callable[[], None]) -> Exception | None:
    try:
        call()
    except Exception as error:  # noqa: BLE001 – raised by `warm_up`
        return error
    return None


def _resolve(future: "Future[T]", work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> None:
    try:
        future.set_result(work(*args, **kwargs))
    except Exception as error:  # noqa: BLE001 – raised where the future is awaited
        future.set_exception(error)
