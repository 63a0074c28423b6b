"""The package's own `generate` of a variant, in a process of its own: `load`, then `generate`.

The process has one model, kept in this module's globals.
"""

from contextlib import ExitStack, nullcontext, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from time import perf_counter
from typing import Any
from unittest import mock

import numpy as np
import torch
from chatterbox.models.t3.modules.t3_config import T3Config

from app.bench.checkpoint import tiny_sizes
from app.bench.equivalence import Tokens
from app.bench.package_models import PACKAGE_MODELS, PackageModel, load_package_model
from app.bench.randomness import pinned_randomness
from app.bench.stages import disable_end_token, peak_memory_gb
from app.core.audio import SAMPLE_RATE, TOKENS_PER_SECOND, Samples
from app.engines.chatterbox.s3gen.noise import Noise

_model: Any = None
_kind: PackageModel
_tokens: Tokens
"""The tokens that S3Gen decoded last."""
_seconds: dict[str, float] = {}
"""How long T3 and S3Gen took the last time."""


@dataclass(frozen=True)
class UpstreamResult:
    """Speech tokens, int64 [m], their audio, float32 [n], and the time `generate` took.

    `t3_s`, `s3gen_s`: the parts of it that both models took.
    """

    tokens: Tokens
    audio: Samples
    total_s: float
    t3_s: float
    s3gen_s: float

    @property
    def audio_s(self) -> float:
        return len(self.audio) / SAMPLE_RATE


def load(variant: str, folder: Path, tiny: bool, device: str, threads: int, tokens: int) -> None:
    """Load the model as upstream does, and make it generate exactly `tokens` speech tokens."""
    global _model, _kind
    torch.set_num_threads(threads)
    with tiny_sizes() if tiny else nullcontext():
        _model = load_package_model(variant, folder, device)
    _kind = PACKAGE_MODELS[variant]
    _model.watermarker.apply_watermark(np.zeros(SAMPLE_RATE, np.float32), SAMPLE_RATE)  # warm-up
    disable_end_token(_model.t3)
    t3_inference, s3gen_inference = getattr(_model.t3, _kind.t3_method), _model.s3gen.inference

    def limited_t3(**options: Any) -> Any:
        began = perf_counter()
        result = t3_inference(**options | {_kind.limit: tokens - _kind.beside_limit})
        _seconds["t3_s"] = _seconds_since(began)
        return result

    def recorded_s3gen(speech_tokens: torch.Tensor, **options: Any) -> Any:
        global _tokens
        _tokens = speech_tokens.cpu().numpy()
        began = perf_counter()
        result = s3gen_inference(speech_tokens=speech_tokens, **options)
        _seconds["s3gen_s"] = _seconds_since(began)
        return result

    setattr(_model.t3, _kind.t3_method, limited_t3)
    _model.s3gen.inference = recorded_s3gen


def _seconds_since(began: float) -> float:
    if _model.device == "cuda":
        torch.cuda.synchronize()
    return perf_counter() - began


def generate(text: str, seed: int) -> UpstreamResult:
    """Run `generate` with the random numbers of the engine's job of that seed."""
    [mixed] = np.random.SeedSequence((seed, 0)).generate_state(1)
    torch.manual_seed(int(mixed))
    with pinned_randomness(Noise(seed, 0, torch.device(_model.device))), ExitStack() as patches:
        patches.enter_context(redirect_stdout(StringIO()))  # it prints
        for name, value in _kind.t3_config.items():
            patches.enter_context(mock.patch.object(T3Config, name, value))
        began = perf_counter()
        audio = _model.generate(text, **_kind.options)
        total_s = perf_counter() - began
    return UpstreamResult(_tokens, audio[0].numpy(), total_s, **_seconds)


def generate_unmarked(text: str, seed: int, prompt_seconds: int) -> UpstreamResult:
    """Run `generate` without a watermark, with at most `prompt_seconds` of the voice's prompt."""
    s3gen_prompt, length = _model.conds.gen, prompt_seconds * TOKENS_PER_SECOND
    cut = {
        "prompt_token": s3gen_prompt["prompt_token"][:, :length],
        "prompt_token_len": s3gen_prompt["prompt_token_len"].clamp(max=length),
        "prompt_feat": s3gen_prompt["prompt_feat"][:, : 2 * length],
    }
    with (
        mock.patch.object(_model.conds, "gen", s3gen_prompt | cut),
        mock.patch.object(_model.watermarker, "apply_watermark", lambda audio, **_: audio),
    ):
        return generate(text, seed)


def memory_gb() -> float:
    return peak_memory_gb(_model.device)
