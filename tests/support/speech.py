"""What the tests of S3Gen's parts share: two loaded copies, upstream's calls, distances."""

from functools import cache
from pathlib import Path

import torch

from app.bench.checkpoint import tiny_sizes
from app.bench.randomness import pinned_randomness
from app.core.params import SynthesisParams
from app.engines.chatterbox.checkpoint.loader import load
from app.engines.chatterbox.s3gen.stream import S3Gen

CPU = torch.device("cpu")

DEFAULTS = SynthesisParams(seed=1)


@cache
def own_s3gen(checkpoint: Path) -> S3Gen:
    """Of modules loaded for this alone, since it changes them."""
    with tiny_sizes():
        return S3Gen.of(load(checkpoint, "cpu").s3gen)


def speech_tokens(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(6561, (count,), generator=generator)


# --- Upstream's calls, with the random numbers given ------------------------------------------


def upstreams_mel(s3gen, tokens, reference, noise):
    """float32 [80, 2·n] for int64 [n]."""
    with pinned_randomness(noise):
        return s3gen.flow_inference(tokens[None], ref_dict=ref_dict(reference), finalize=True)[0]


def upstreams_waveform(s3gen, mel, noise):
    """float32 [480·n] for [80, n]."""
    with pinned_randomness(noise):
        return s3gen.hift_inference(mel[None])[0][0]


def upstreams_audio(s3gen, tokens, reference, noise):
    """float32 [960·n] for int64 [n]; as the one before of the mel before, but faded in."""
    with pinned_randomness(noise):
        return s3gen.inference(tokens[None], ref_dict=ref_dict(reference))[0][0]


def ref_dict(reference):
    length = torch.tensor([reference.prompt_token.shape[1]])
    return vars(reference) | {"prompt_token_len": length, "prompt_feat_len": None}


# --- Distances ------------------------------------------------------------------------------------


def mel_error(mel, right):
    """The largest difference, as a part of the right mel's range."""
    return float((mel - right).abs().max() / (right.max() - right.min()))


def decibels(difference, scale):
    """How loud `difference` is beside `scale`, by their root mean squares."""
    return float(20 * torch.log10(difference.square().mean().sqrt() / scale.square().mean().sqrt()))
