"""Compute the audio of many jobs' slices with S3Gen, in batches on one thread.

    audio = await scheduler.decode(SliceTask(stream, tokens, last, deadline))    on the event loop

Earliest deadline first (EDF), in batches as large as the flow takes. A batch is given up at the
next Euler step if all of its jobs are cancelled.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock

import torch
from torch import Tensor

from app.core.progress import Progress, current
from app.engines.cancellation import run_shielded, wait_done
from app.engines.chatterbox.conditioning.conditionals import S3GenPrompt
from app.engines.chatterbox.s3gen.flow import OnStep
from app.engines.chatterbox.s3gen.stream import S3Gen, StreamDecoder

FIRST_SLICE_DEADLINE = float("-inf")
"""Deadline of a job's first slice: its client has no audio to play yet."""


@dataclass(eq=False)
class SliceTask:
    """`tokens` that continue a `stream`. `deadline`: monotonic, in seconds."""

    stream: StreamDecoder
    tokens: list[int]
    last: bool
    deadline: float
    audio: "Future[Tensor]" = field(default_factory=Future)  # float32 [samples], on the CPU
    cancelled: bool = False
    progress: Progress = field(default_factory=current.get)  # of the job


class S3GenScheduler:
    """Calls `bind_thread` on its thread at the warm-up, `trim_memory` after each batch."""

    def __init__(
        self, s3gen: S3Gen, bind_thread: Callable[[], None], trim_memory: Callable[[], None]
    ) -> None:
        self.steps = 0  # of the flow
        self._s3gen = s3gen
        self._bind_thread = bind_thread
        self._trim_memory = trim_memory
        self._tasks: list[SliceTask] = []
        self._lock = Lock()  # of the tasks
        self._thread = ThreadPoolExecutor(1, "s3gen")

    async def warm_up(self, prompt: S3GenPrompt) -> None:
        def warm_up() -> None:
            self._bind_thread()
            self._s3gen.warm_up(prompt)

        await run_shielded(self._thread, warm_up)

    async def decode(self, task: SliceTask) -> Tensor:
        """Return the audio that the slice adds to its stream. Raises what S3Gen raises.

        If cancelled, it returns once the thread no longer uses the stream.
        """
        with self._lock:
            self._tasks.append(task)
        self._thread.submit(self._run_batch)
        try:
            return await asyncio.wrap_future(task.audio)
        finally:
            if not task.audio.done():
                task.cancelled = True
                await wait_done(task.audio)

    def close(self) -> None:
        """End the thread. No `decode` may be running."""
        self._thread.shutdown()

    def _run_batch(self) -> None:
        """Decode the most urgent tasks; runs once per task, and does nothing if none is left."""
        if batch := self._next_batch():
            self._decode(batch)
            batch.clear()  # frees its tensors
            self._trim_memory()

    def _next_batch(self) -> list[SliceTask]:
        """Take the tasks with the earliest deadlines; they can no longer be dropped."""
        batch: list[SliceTask] = []
        with self._lock:
            self._tasks.sort(key=lambda task: task.deadline)
            while self._tasks and len(batch) < self._s3gen.flow.max_batch_size:
                task = self._tasks.pop(0)
                if task.audio.set_running_or_notify_cancel():
                    batch.append(task)
        return batch

    @torch.inference_mode()
    def _decode(self, batch: list[SliceTask]) -> None:
        def on_step() -> None:
            self.steps += 1
            for task in (*batch, *self._tasks):  # a task that waits for its turn does not hang
                task.progress.step()
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
                _commit(task, new, mel)

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


def _commit(task: SliceTask, tokens: Tensor, mel: Tensor | None) -> None:
    try:
        task.audio.set_result(task.stream.commit(tokens, mel, task.last).cpu())
    except Exception as error:  # noqa: BLE001 – raised by `decode`
        task.audio.set_exception(error)
