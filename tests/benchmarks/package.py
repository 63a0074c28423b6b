"""The package's own `ChatterboxTTS.generate`, for comparison: in a process of its own, which a
`ProcessPoolExecutor` starts with `load` and then asks to `generate`.
"""

import resource
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any
from unittest import mock

import numpy as np
import torch
from chatterbox import ChatterboxTTS
from numpy.typing import NDArray

from app.engines.chatterbox.noise import Noise
from tests.checkpoint import tiny_sizes
from tests.engines.chatterbox.speech import chance

_model: Any = None


@dataclass(frozen=True)
class Spoken:
    """`audio`: float32 [n]. `memory_gb`: the most that the process had in use so far."""

    audio: NDArray[np.float32]
    seconds: float
    memory_gb: float


def load(folder: Path, size: str, device: str, threads: int, tokens: int, repeat: int) -> None:
    """As upstream loads it; it will say `tokens`, with its voice's prompt `repeat` times over."""
    global _model
    torch.set_num_threads(threads)
    with tiny_sizes() if size == "tiny" else ExitStack():
        _model = ChatterboxTTS.from_local(folder, device)
    _model.t3.inference = cut_at(tokens, _model.t3.inference)
    voice = _model.conds.gen
    voice["prompt_token"] = voice["prompt_token"].repeat(1, repeat)
    voice["prompt_token_len"] = voice["prompt_token_len"] * repeat
    voice["prompt_feat"] = voice["prompt_feat"].repeat(1, repeat, 1)


def cut_at(tokens: int, inference: Any) -> Any:
    return lambda **kwargs: inference(**kwargs | {"max_new_tokens": tokens})


def generate(text: str, token_seed: int, audio_seed: int, watermark: bool) -> Spoken:
    """With the random numbers that the engine draws for these seeds."""
    plain = mock.patch.object(_model.watermarker, "apply_watermark", lambda audio, **_: audio)
    with ExitStack() if watermark else plain, chance(Noise(audio_seed, 0, _model.device)):
        torch.manual_seed(token_seed)
        began = perf_counter()
        audio = _model.generate(text)
        seconds = perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return Spoken(audio[0].numpy(), seconds, peak)
