"""Upstream's dice, loaded: what it draws at random comes from the engine's own `Noise`.

Only so can the package's audio be compared with this engine's, sample by sample. Called by
`speed.package` and by the engine's tests.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from torch import Tensor

from app.engines.chatterbox.s3gen.constants import MEL_BANDS
from app.engines.chatterbox.s3gen.noise import Noise, NoiseStream

HARMONICS = 9
SAMPLES_PER_FRAME = 480


@contextmanager
def chance(noise: Noise) -> Iterator[None]:
    """Inside, what upstream's S3Gen draws is `noise`; T3 goes on drawing from torch's generator."""
    phases = noise.phases(HARMONICS)

    class Uniform:
        def __init__(self, low: float, high: float) -> None:
            if not -low == high == torch.pi:
                raise ValueError(f"upstream draws from {low} to {high}, which are no phases")

        def sample(self, sample_shape: torch.Size) -> Tensor:
            return phases.view(sample_shape)

    def randn_like(like: Tensor) -> Tensor:
        _, channels, length = like.shape
        if channels == MEL_BANDS:
            return noise.frames(NoiseStream.FLOW, 0, length, MEL_BANDS).T[None]
        if channels == HARMONICS:
            width = SAMPLES_PER_FRAME * HARMONICS
            frames = noise.frames(NoiseStream.EXCITATION, 0, length // SAMPLES_PER_FRAME, width)
            return frames.view(-1, HARMONICS).T[None]
        return torch.zeros_like(like)  # drawn and not used

    with (
        mock.patch("chatterbox.models.s3gen.hifigan.Uniform", Uniform),
        mock.patch.object(torch, "randn_like", randn_like),
    ):
        yield
