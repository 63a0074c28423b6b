"""What the tests of S3Gen's parts share: two loaded copies, upstream's calls, distances."""

from contextlib import contextmanager
from functools import cache
from pathlib import Path
from unittest import mock

import torch

from app.engines.chatterbox.flow import MEL_BANDS
from app.engines.chatterbox.loading import load
from app.engines.chatterbox.noise import Noise, Use
from app.engines.chatterbox.s3gen import S3Gen
from app.messages import SynthesisParams
from tests.checkpoint import tiny_sizes

CPU = torch.device("cpu")
HARMONICS = 9
SAMPLES_PER_FRAME = 480

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


@contextmanager
def chance(noise: Noise):
    """Inside, what upstream draws at random is `noise`."""
    phases = noise.phases(HARMONICS)

    class Uniform:
        def __init__(self, low, high):
            assert -low == high == torch.pi

        def sample(self, sample_shape):
            return phases.view(sample_shape)

    def randn_like(like):
        _, channels, length = like.shape
        if channels == MEL_BANDS:
            return noise.frames(Use.FLOW, 0, length, MEL_BANDS).T[None]
        if channels == HARMONICS:
            width = SAMPLES_PER_FRAME * HARMONICS
            frames = noise.frames(Use.SOURCE, 0, length // SAMPLES_PER_FRAME, width)
            return frames.view(-1, HARMONICS).T[None]
        return torch.zeros_like(like)  # drawn and not used

    with (
        mock.patch("chatterbox.models.s3gen.hifigan.Uniform", Uniform),
        mock.patch.object(torch, "randn_like", randn_like),
    ):
        yield


def upstreams_mel(s3gen, tokens, reference, noise):
    """float32 [80, 2·n] for int64 [n]."""
    with chance(noise):
        return s3gen.flow_inference(tokens[None], ref_dict=ref_dict(reference), finalize=True)[0]


def upstreams_waveform(s3gen, mel, noise):
    """float32 [480·n] for [80, n]."""
    with chance(noise):
        return s3gen.hift_inference(mel[None])[0][0]


def upstreams_audio(s3gen, tokens, reference, noise):
    """float32 [960·n] for int64 [n]; as the one before of the mel before, but faded in."""
    with chance(noise):
        return s3gen.inference(tokens[None], ref_dict=ref_dict(reference))[0][0]


def ref_dict(reference):
    return vars(reference) | {"prompt_feat_len": None}


# --- Distances ------------------------------------------------------------------------------------


def mel_error(mel, right):
    """The largest difference, as a part of the right mel's range."""
    return float((mel - right).abs().max() / (right.max() - right.min()))


def decibels(difference, scale):
    """How loud `difference` is beside `scale`, by their root mean squares."""
    return float(20 * torch.log10(difference.square().mean().sqrt() / scale.square().mean().sqrt()))
