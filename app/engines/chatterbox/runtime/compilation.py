"""`torch.compile` as this engine uses it: for the parts that every token and slice passes through.

    before = compiler.compile(BeforeAttention(layer))      a few dozen layers, one graph for all

Each part must become one graph without a break, for any length, or raise when it is first called.
Parts are small and occur often, so that little is compiled; what lies between them is not worth it.

Whether shapes may vary is a flag that torch keeps for all threads while one of them compiles, so
nothing else of this may run meanwhile.
"""

from collections.abc import Callable
from typing import Protocol, TypeVar, cast

import torch
from torch import Tensor

Part = TypeVar("Part", bound=Callable[..., Tensor | tuple[Tensor, ...]])

MOST_GRAPHS = 64
"""Of one function; torch's own limit is 8. A part has one for each kind of sizes it occurs in."""


class Compiler(Protocol):
    """What turns the hot path's parts into faster ones."""

    def compile(self, part: Part) -> Part: ...

    def adopt_thread(self) -> None:
        """To be called on each thread that is to call compiled parts, before it does."""
        ...


class NoCompiler:
    """Leaves everything as it is written."""

    def compile(self, part: Part) -> Part:
        return part

    def adopt_thread(self) -> None:
        pass


NO_COMPILER = NoCompiler()


class TorchCompiler:
    """`torch.compile`; `backend` is what it takes for one."""

    def __init__(self, backend: str | Callable[..., object] = "inductor") -> None:
        self._backend = backend

    def compile(self, part: Part) -> Part:
        compiled = torch.compile(part, fullgraph=True, dynamic=True, backend=self._backend)
        return cast(Part, compiled)

    def adopt_thread(self) -> None:
        """Newer versions of torch have a configuration for each thread."""
        torch._dynamo.config.cache_size_limit = MOST_GRAPHS
