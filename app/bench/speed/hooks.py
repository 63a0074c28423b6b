"""Where the benchmark reaches into the models; nothing else of it knows how they are built.

never_end(t3)             upstream's T3, whoever drives it, never draws the end token
endless()                 nor does that of an engine that is constructed
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
from app.engines.chatterbox import engine as engine_module
from app.engines.chatterbox.checkpoint.loader import load
from app.engines.chatterbox.checkpoint.models import Models
from app.engines.chatterbox.frontend.english import EnglishFrontend
from app.engines.chatterbox.s3gen.flow import Flow, StaticShapeFlow
from app.engines.chatterbox.s3gen.waveform import StreamingVocoder

PARTS: list[tuple[str, type, str]] = [
    ("flow's encoder", Flow, "conditioning"),  # on a CPU
    ("flow's encoder", StaticShapeFlow, "encode"),  # on a GPU
    ("flow's solver", Flow, "solve"),
    ("flow's solver", StaticShapeFlow, "solve"),
    ("vocoder", StreamingVocoder, "extend"),
]
"""What runs on S3Gen's thread, by class and method. One that calls another is told without it."""

UNHEARD_OF = -1e4
"""As a logit: finite, since guidance subtracts one such from another."""


def never_end(t3: Any) -> None:
    """To be called before anything of `t3` is compiled. Costs one small kernel a step."""
    end: int = t3.hp.stop_speech_token

    def without_end(head: nn.Module, inputs: Any, logits: Tensor) -> Tensor:
        logits[..., end] = UNHEARD_OF
        return logits

    t3.speech_head.register_forward_hook(without_end)


def endless() -> AbstractContextManager[object]:
    """Inside, the models that an engine loads never end; its threads begin when they are loaded."""

    def load_endless(*args: Any, **kwargs: Any) -> Models:
        models = load(*args, **kwargs)
        never_end(models.t3)
        return models

    return mock.patch.object(engine_module, "load", load_endless)


def cut_at(tokens: int) -> AbstractContextManager[object]:
    """Inside, text chunks that begin end after `tokens` speech tokens."""
    return mock.patch.object(EnglishFrontend, "max_tokens", return_value=tokens)


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
