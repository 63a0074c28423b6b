"""Capture one CUDA graph per input shape at warm-up and replay it afterwards.

    step = capturer.wrap(model)      the model reads and writes buffers with fixed addresses only
    step.capture(8, 512)             at warm-up, on the thread that will call it
    step(8, 512)                     replays the graph: one launch instead of a thousand

Shapes that were not captured run eagerly.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Function = Callable[..., Tensor]
"""Takes integers, the shape. The next call overwrites its result."""


class ShapeFunction:
    """A function of a shape, run eagerly."""

    def __init__(self, function: Function) -> None:
        self._function = function

    def __call__(self, *shape: int) -> Tensor:
        return self._function(*shape)

    def capture(self, *shape: int) -> None:
        """Warm up this shape and, where supported, capture it."""
        self._function(*shape)


class GraphCapturer:
    """Wraps functions of a shape for one thread; this one runs them without CUDA graphs."""

    static_shapes = False
    """Whether to use few shapes and pad inputs to one of them."""

    def wrap(self, function: Function) -> ShapeFunction:
        return ShapeFunction(function)

    def bind_thread(self) -> None:
        """Set up the current thread, before it captures or runs anything."""


EAGER = GraphCapturer()


class CudaGraphCapturer(GraphCapturer):
    """Captures CUDA graphs for one thread, which gets a stream of its own. They share a pool."""

    static_shapes = True

    def __init__(self, priority: int = 0) -> None:
        self._priority = priority
        self._pool = torch.cuda.graph_pool_handle()  # type: ignore[no-untyped-call]

    def wrap(self, function: Function) -> ShapeFunction:
        return CapturedFunction(function, self._pool)

    def bind_thread(self) -> None:
        torch.cuda.set_stream(torch.cuda.Stream(priority=self._priority))  # type: ignore[no-untyped-call]


class GraphCaptureError(Exception):
    """A function runs, but cannot be captured."""


class CapturedFunction(ShapeFunction):
    """A function's CUDA graphs by shape. Capture large ones first: their memory is reused."""

    def __init__(self, function: Function, pool: object) -> None:
        super().__init__(function)
        self._pool = pool
        self._graphs: dict[tuple[int, ...], tuple[torch.cuda.CUDAGraph, Tensor]] = {}

    def __call__(self, *shape: int) -> Tensor:
        if shape not in self._graphs:
            return self._function(*shape)
        graph, result = self._graphs[shape]
        graph.replay()  # type: ignore[no-untyped-call]
        return result

    def capture(self, *shape: int) -> None:
        """Raises `GraphCaptureError` if only the capture fails, for want of memory for example."""
        self._function(*shape)  # compile, autotune and allocate outside of the capture
        torch.cuda.current_stream().synchronize()
        torch.cuda.empty_cache()  # a graph's pool cannot use blocks that eager runs have cached
        graph = torch.cuda.CUDAGraph()  # type: ignore[no-untyped-call]
        graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")  # type: ignore[no-untyped-call]
        try:
            try:
                result = self._function(*shape)
            finally:
                graph.capture_end()  # type: ignore[no-untyped-call]
        except RuntimeError as fault:
            raise GraphCaptureError(fault) from fault
        self._graphs[shape] = graph, result
