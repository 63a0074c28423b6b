"""CUDA graphs: what a GPU is told for a token or a slice is recorded once, then replayed.

    step = recorder.by_shape(model)        a function of a shape that touches fixed memory only
    step.rehearse(8, 512)                  at warm-up, on the thread that is to call it
    step(8, 512)                           from then on: one launch in place of a thousand

A launch takes a CPU longer than most of these kernels take a GPU. Elsewhere, and in shapes that
were not rehearsed, the function just runs.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

ByShape = Callable[..., Tensor]
"""Of integers alone. What it returns is overwritten by its next call."""


class ShapedFunction(Protocol):
    """A function of a shape, rehearsed or not."""

    def __call__(self, *shape: int) -> Tensor: ...

    def rehearse(self, *shape: int) -> None:
        """Have it ready in that shape."""
        ...


class Recorder(Protocol):
    """How functions of a shape are run."""

    fixes_shapes: bool
    """Whether shapes should be few, and what varies be padded to one of them."""

    def by_shape(self, function: ByShape) -> ShapedFunction: ...

    def adopt_thread(self) -> None:
        """To be called on each thread that is to rehearse and run, before it does."""
        ...


class NoRecorder:
    """Every call is a run."""

    fixes_shapes = False

    def by_shape(self, function: ByShape) -> ShapedFunction:
        return Unrecorded(function)

    def adopt_thread(self) -> None:
        pass


class Unrecorded:
    """A rehearsal is a run."""

    def __init__(self, function: ByShape) -> None:
        self._function = function

    def __call__(self, *shape: int) -> Tensor:
        return self._function(*shape)

    def rehearse(self, *shape: int) -> None:
        self._function(*shape)


NO_RECORDER = NoRecorder()


class CudaRecorder:
    """All of one thread's recordings take their scratch memory from one pool: they never overlap.

    Each thread has a stream of its own, so that what one waits for does not wait for another.
    """

    fixes_shapes = True

    def __init__(self, priority: int = 0) -> None:
        self._priority = priority
        self._pool = torch.cuda.graph_pool_handle()  # type: ignore[no-untyped-call]

    def by_shape(self, function: ByShape) -> ShapedFunction:
        return Recorded(function, self._pool)

    def adopt_thread(self) -> None:
        torch.cuda.set_stream(torch.cuda.Stream(priority=self._priority))  # type: ignore[no-untyped-call]


class RecordingFailed(Exception):
    """What runs cannot be recorded."""


class Recorded:
    """Recordings of a function, by shape; `pool` is where their results lie.

    Large shapes are best rehearsed first: the pool then has room for the others.
    """

    def __init__(self, function: ByShape, pool: object) -> None:
        self._function = function
        self._pool = pool
        self._recordings: dict[tuple[int, ...], tuple[torch.cuda.CUDAGraph, Tensor]] = {}

    def __call__(self, *shape: int) -> Tensor:
        if shape not in self._recordings:
            return self._function(*shape)
        graph, result = self._recordings[shape]
        graph.replay()  # type: ignore[no-untyped-call]
        return result

    def rehearse(self, *shape: int) -> None:
        """Raises what the function raises, and `RecordingFailed` where it runs but cannot be
        recorded, out of memory among other reasons.
        """
        self._function(*shape)  # what is compiled, chosen or allocated at first use
        torch.cuda.current_stream().synchronize()
        torch.cuda.empty_cache()  # a pool cannot have what was kept for other runs
        graph = torch.cuda.CUDAGraph()  # type: ignore[no-untyped-call]
        graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")  # type: ignore[no-untyped-call]
        try:
            try:
                result = self._function(*shape)
            finally:
                graph.capture_end()  # type: ignore[no-untyped-call]
        except RuntimeError as fault:
            raise RecordingFailed(fault) from fault
        self._recordings[shape] = graph, result
