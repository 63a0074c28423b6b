"""`torch.compile` for the small modules that every token and slice passes through.

Each must compile to a single graph with dynamic shapes, which a few dozen layers share; compiling
the rest takes longer than it saves. Dynamo's dynamic-shape flag is global to the process while one
thread compiles, so no other thread may compile or run compiled modules meanwhile.
"""

from collections.abc import Callable
from typing import TypeVar, cast

import torch
from torch import Tensor

Part = TypeVar("Part", bound=Callable[..., Tensor | tuple[Tensor, ...]])

MAX_GRAPHS = 64
"""Graphs per function, one for each kind of input sizes; torch's default limit is 8."""


class Compiler:
    """Leaves modules as they are."""

    def compile(self, part: Part) -> Part:
        return part

    def bind_thread(self) -> None:
        """Set up the current thread, before it calls compiled modules."""


NO_COMPILER = Compiler()


class TorchCompiler(Compiler):
    def __init__(self, backend: str | Callable[..., object] = "inductor") -> None:
        self._backend = backend

    def compile(self, part: Part) -> Part:
        compiled = torch.compile(part, fullgraph=True, dynamic=True, backend=self._backend)
        return cast(Part, compiled)

    def bind_thread(self) -> None:
        torch._dynamo.config.cache_size_limit = MAX_GRAPHS  # newer torch keeps it per thread
