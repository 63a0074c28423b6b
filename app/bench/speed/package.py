"""The package's own `ChatterboxTTS.generate`, in a process of its own: `load`, then `generate`.

The process computes nothing else, so these two find the model in the module.
"""

from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from time import perf_counter
from typing import Any
from unittest import mock

import numpy as np
import torch
from chatterbox import ChatterboxTTS
from numpy.typing import NDArray

from app.bench.chance import chance
from app.bench.checkpoint import tiny_sizes
from app.bench.speed.hooks import never_end
from app.bench.speed.memory import peak_gb
from app.core.audio import SAMPLE_RATE, TOKENS_PER_SECOND, Samples
from app.engines.chatterbox.s3gen.noise import Noise

_model: Any = None
_tokens: NDArray[np.int64]
"""What S3Gen was given last."""


@dataclass(frozen=True)
class Generated:
    """What `generate` said, float32 [n], by its speech tokens, int64 [m], and in what time."""

    tokens: NDArray[np.int64]
    audio: Samples
    seconds: float


def load(folder: Path, tiny: bool, device: str, threads: int, tokens: int) -> None:
    """As upstream loads it; it will say `tokens`, neither more nor fewer."""
    global _model
    torch.set_num_threads(threads)
    with tiny_sizes() if tiny else nullcontext(), redirect_stdout(StringIO()):  # it prints
        _model = ChatterboxTTS.from_local(folder, device)
    _model.watermarker.apply_watermark(np.zeros(SAMPLE_RATE, np.float32), SAMPLE_RATE)  # warm
    never_end(_model.t3)
    inference, speak = _model.t3.inference, _model.s3gen.inference

    def say_so_many(**options: Any) -> Any:
        return inference(**options | {"max_new_tokens": tokens})

    def take_note(speech_tokens: torch.Tensor, **options: Any) -> Any:
        global _tokens
        _tokens = speech_tokens.cpu().numpy()
        return speak(speech_tokens=speech_tokens, **options)

    _model.t3.inference = say_so_many
    _model.s3gen.inference = take_note


def generate(text: str, seed: int) -> Generated:
    """All of what a user of the package waits for, with the random numbers of the engine's job."""
    with _dice(seed):
        began = perf_counter()
        audio = _model.generate(text)
        seconds = perf_counter() - began
    return Generated(_tokens, audio[0].numpy(), seconds)


def generate_unmarked(text: str, seed: int, prompt_seconds: int) -> Generated:
    """Without a watermark, and after no more than `prompt_seconds` of the voice."""
    whole, length = _model.conds.gen, prompt_seconds * TOKENS_PER_SECOND
    cut = {
        "prompt_token": whole["prompt_token"][:, :length],
        "prompt_token_len": whole["prompt_token_len"].clamp(max=length),
        "prompt_feat": whole["prompt_feat"][:, : 2 * length],
    }
    with (
        mock.patch.object(_model.conds, "gen", whole | cut),
        mock.patch.object(_model.watermarker, "apply_watermark", lambda audio, **_: audio),
    ):
        return generate(text, seed)


def memory_gb() -> float:
    """See `memory.peak_gb`."""
    return peak_gb(_model.device)


def _dice(seed: int) -> Any:
    mixed = np.random.SeedSequence((seed, 0)).generate_state(1)
    torch.manual_seed(int(mixed[0]))
    return chance(Noise(seed, 0, torch.device(_model.device)))
