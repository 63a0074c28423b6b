"""Timing of the engine's stages, and the patches that the benchmark applies to the models.

Only this module of the benchmark knows how the models are built.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any
from unittest import mock

import psutil
import torch
from torch import Tensor, nn

from app.engines.chatterbox import engine as engine_module
from app.engines.chatterbox.checkpoint.loader import load
from app.engines.chatterbox.checkpoint.models import Models
from app.engines.chatterbox.s3gen.flow import Flow, StaticShapeFlow
from app.engines.chatterbox.s3gen.waveform import StreamingVocoder

S3GEN_STAGES: list[tuple[str, type, str]] = [
    ("flow's encoder", Flow, "conditioning"),  # on a CPU
    ("flow's encoder", StaticShapeFlow, "encode"),  # on a GPU
    ("flow's solver", Flow, "solve"),
    ("flow's solver", StaticShapeFlow, "solve"),
    ("vocoder", StreamingVocoder, "extend"),
]
"""Stages of S3Gen's thread by class and method; the time of nested stages is not counted twice."""

SUPPRESSED_LOGIT = -1e4
"""Finite, because guidance subtracts one such logit from another."""


class StageTimer:
    """Add up the seconds of each stage; stages may be nested, within one thread at a time.

    `synchronize()` waits for the device. It is called at both ends of each stage, so that work
    queued by one stage is not charged to the next.
    """

    def __init__(self, synchronize: Callable[[], None]) -> None:
        self.seconds: dict[str, float] = {}
        self._synchronize = synchronize
        self._running: list[str] = []
        self._charged_until = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the seconds spent inside, without those of nested stages, to the stage's total."""
        self._charge()
        self._running.append(name)
        try:
            yield
        finally:
            self._charge()
            self._running.pop()

    def _charge(self) -> None:
        """Charge the time since the last call to the innermost stage."""
        self._synchronize()
        now = perf_counter()
        if self._running:
            stage = self._running[-1]
            self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._charged_until
        self._charged_until = now


@contextmanager
def timed_stages(timer: StageTimer) -> Iterator[None]:
    """Time the S3Gen stages of every engine with `timer`."""
    with ExitStack() as patches:
        for name, kind, method in S3GEN_STAGES:
            timed = timer.stage(name)(getattr(kind, method))
            patches.enter_context(mock.patch.object(kind, method, timed))
        yield


def disable_end_token(t3: Any) -> None:
    """Keep upstream's T3 from drawing the end token; call it before `t3` is compiled."""
    end: int = t3.hp.stop_speech_token

    def suppress_end(head: nn.Module, inputs: Any, logits: Tensor) -> Tensor:
        logits[..., end] = SUPPRESSED_LOGIT
        return logits

    t3.speech_head.register_forward_hook(suppress_end)


def without_end_token() -> AbstractContextManager[object]:
    """Disable the end token of models that an engine loads inside."""

    def load_without_end_token(*args: Any, **kwargs: Any) -> Models:
        models = load(*args, **kwargs)
        disable_end_token(models.t3)
        return models

    return mock.patch.object(engine_module, "load", load_without_end_token)


def limited_to(tokens: int) -> AbstractContextManager[object]:
    """Cut the text chunks that begin inside after `tokens` speech tokens."""
    return mock.patch.object(engine_module, "max_tokens", return_value=tokens)


def peak_memory_gb(device: str) -> float:
    """Return the peak of the GPU's reserved memory or, for a CPU, of this process' memory."""
    if device == "cuda":
        return torch.cuda.max_memory_reserved() / 1e9
    # ru_maxrss would include the parent's memory from before exec.
    [kilobytes] = re.findall(r"^VmHWM:\s*(\d+) kB$", Path("/proc/self/status").read_text(), re.M)
    return int(kilobytes) * 1024 / 1e9


def current_memory_gb(device: str) -> float:
    """Return the memory that `peak_memory_gb` is the maximum of."""
    size = torch.cuda.memory_reserved() if device == "cuda" else psutil.Process().memory_info().rss
    return float(size) / 1e9
