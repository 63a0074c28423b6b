"""`torch.compile` as this engine uses it: for the functions that every token and slice calls.

    compiler.fixed(step)       T3's step: a graph for each of its few arguments
    compiler.bucketed(step)    the flow's step: one graph, lengths in multiples of `bucket`
    compiler.flexible(part)    the vocoder's parts: one graph, any length

Each must become one graph without a break, or raise when it is first called. On CUDA the first two
are recorded and replayed ("reduce-overhead"): for every argument or length, in the second call with
it, on the thread that is to replay it. The vocoder is not: its lengths are too many to record.

Whether shapes are fixed is a flag that torch keeps for all threads while one of them compiles, so
nothing else of this may run meanwhile.
"""

import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Protocol, TypeVar, cast

import torch
from torch import Tensor

Function = TypeVar("Function", bound=Callable[..., Tensor | tuple[Tensor, ...]])
Step = TypeVar("Step", bound=Callable[..., Tensor])

BUCKET = 128
"""Frames, 2.6 s of audio: of 2,500 at most, so twenty recordings."""

MOST_GRAPHS = 64
"""Of one function; torch's own limit is 8. T3's step has at most 8 widths times 4 spans."""


class Compiler(Protocol):
    """What turns the hot path's functions into faster ones."""

    bucket: int
    rehearsals: int
    """How often a function is to be called in each shape before none of it is left to be done."""

    def fixed(self, step: Step) -> Step: ...
    def bucketed(self, step: Step) -> Step: ...
    def flexible(self, part: Function) -> Function: ...

    def adopt_thread(self) -> None:
        """To be called on each thread that is to call compiled functions, before it does."""
        ...


class NoCompiler:
    """Leaves everything as it is written."""

    bucket = 1
    rehearsals = 1

    def fixed(self, step: Step) -> Step:
        return step

    def bucketed(self, step: Step) -> Step:
        return step

    def flexible(self, part: Function) -> Function:
        return part

    def adopt_thread(self) -> None:
        pass


NO_COMPILER = NoCompiler()


class TorchCompiler:
    """`torch.compile` for one device; `backend` is what it takes for one."""

    def __init__(
        self, device: torch.device, backend: str | Callable[..., object] = "inductor"
    ) -> None:
        self._records = device.type == "cuda"
        self._backend = backend
        self.bucket = BUCKET if self._records else 1
        self.rehearsals = 2 if self._records else 1

    def fixed(self, step: Step) -> Step:
        return self._recorded(step, dynamic=False)

    def bucketed(self, step: Step) -> Step:
        return self._recorded(step, dynamic=True)

    def flexible(self, part: Function) -> Function:
        compiled = torch.compile(part, fullgraph=True, dynamic=True, backend=self._backend)
        return cast(Function, compiled)

    def adopt_thread(self) -> None:
        """Newer versions of torch have a configuration for each thread. All of them keep recordings
        by thread, and know no threads but their own.
        """
        torch._dynamo.config.cache_size_limit = MOST_GRAPHS
        if self._records:
            from torch._inductor import cudagraph_trees

            cudagraph_trees.local.tree_manager_containers = {}
            cudagraph_trees.local.tree_manager_locks = defaultdict(threading.Lock)

    def _recorded(self, step: Step, dynamic: bool) -> Step:
        mode = "reduce-overhead" if self._records else None
        compiled = torch.compile(
            step, fullgraph=True, dynamic=dynamic, backend=self._backend, mode=mode
        )
        if not self._records:
            return cast(Step, compiled)

        def replay(*args: object) -> Tensor:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
            result: Tensor = compiled(*args)
            return result.clone()  # the next replay overwrites it

        return cast(Step, replay)
