"""Helpers of S3Gen's tests: a loaded copy, upstream's calls with our noise, error measures."""

from functools import cache
from pathlib import Path

import torch

from app.bench.checkpoint import tiny_sizes
from app.bench.randomness import pinned_randomness
from app.core.params import SynthesisParams
from app.engines.chatterbox.checkpoint.loader import load
from app.engines.chatterbox.s3gen.stream import S3Gen
from app.engines.chatterbox.variants import VARIANTS

CPU = torch.device("cpu")

DEFAULTS = SynthesisParams(seed=1)


@cache
def own_s3gen(checkpoint: Path, variant: str = "chatterbox") -> S3Gen:
    """With modules of its own, since it changes them."""
    with tiny_sizes():
        return S3Gen.of(load(checkpoint, "cpu", spec=VARIANTS[variant]))


def speech_tokens(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(6561, (count,), generator=generator)


# --- Upstream's calls with our noise -----------------------------------------------------------


def upstreams_mel(s3gen, tokens, prompt, noise):
    """float32 [80, 2·n] for int64 [n]."""
    with pinned_randomness(noise):
        return s3gen.flow_inference(tokens[None], ref_dict=ref_dict(prompt), finalize=True)[0]


def upstreams_waveform(s3gen, mel, noise):
    """float32 [480·n] for [80, n]."""
    with pinned_randomness(noise):
        return s3gen.hift_inference(mel[None])[0][0]


def upstreams_audio(s3gen, tokens, prompt, noise):
    """float32 [960·n] for int64 [n], with upstream's fade-in."""
    with pinned_randomness(noise):
        return s3gen.inference(tokens[None], ref_dict=ref_dict(prompt))[0][0]


def ref_dict(prompt):
    length = torch.tensor([prompt.prompt_token.shape[1]])
    return vars(prompt) | {"prompt_token_len": length, "prompt_feat_len": None}


# --- Error measures -------------------------------------------------------------------------------


def mel_error(mel, expected):
    """The largest difference, relative to the range of the expected mel."""
    return float((mel - expected).abs().max() / (expected.max() - expected.min()))


def decibels(difference, scale):
    """Root mean square of `difference` relative to that of `scale`, in dB."""
    return float(20 * torch.log10(difference.square().mean().sqrt() / scale.square().mean().sqrt()))
