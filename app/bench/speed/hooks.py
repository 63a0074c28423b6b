"""Where the benchmark reaches into the models; nothing else of it knows how they are built.

never_end(t3)             upstream's T3, whoever drives it, never draws the end token
cut_at(tokens)            the engine cuts every text chunk after so many tokens
clocked(clock)            the parts of S3Gen tell `clock` how long they took
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import wraps
from typing import Any
from unittest import mock

from torch import Tensor, nn

from app.bench.speed.clock import Clock
from app.engines.base import Engine
from app.engines.chatterbox import engine as engine_module
from app.engines.chatterbox.flow import FixedSolver, Flow
from app.engines.chatterbox.vocoder import Waveform

PARTS: list[tuple[str, type, str]] = [
    ("flow's encoder", Flow, "context"),  # on a CPU
    ("flow's encoder", FixedSolver, "encode"),  # on a GPU
    ("flow's solver", Flow, "solve"),
    ("vocoder", Waveform, "extend"),
]
"""What runs on S3Gen's thread, by class and method. One that calls another is told without it."""

UNHEARD_OF = -1e4
"""As a logit: finite, since guidance subtracts one such from another."""


def t3_of(engine: Engine) -> Any:
    """Upstream's T3 in a `ChatterboxEngine`."""
    return engine._models.t3  # type: ignore[attr-defined]


def never_end(t3: Any) -> None:
    """To be called before anything of `t3` is compiled. Costs one small kernel a step."""
    end: int = t3.hp.stop_speech_token

    def without_end(head: nn.Module, inputs: Any, logits: Tensor) -> Tensor:
        logits[..., end] = UNHEARD_OF
        return logits

    t3.speech_head.register_forward_hook(without_end)


def cut_at(tokens: int) -> AbstractContextManager[object]:
    """Inside, text chunks that begin end after `tokens` speech tokens."""
    return mock.patch.object(engine_module, "max_tokens", return_value=tokens)


@contextmanager
def clocked(clock: Clock) -> Iterator[None]:
    """Inside, every engine's S3Gen is told to `clock`."""

    def timed(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            with clock.runs(name):
                return method(*args, **kwargs)

        return call

    with ExitStack() as patches:
        for name, kind, method in PARTS:
            call = timed(name, getattr(kind, method))
            patches.enter_context(mock.patch.object(kind, method, call))
        yield
