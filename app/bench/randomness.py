"""Patch upstream's random draws to use this engine's position-indexed noise.

With the same random numbers the package's audio can be compared sample by sample. Called by
`bench.upstream` and by the engine's tests.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from app.engines.chatterbox.s3gen.constants import MEL_BANDS
from app.engines.chatterbox.s3gen.noise import Noise, NoiseStream

HARMONICS = 9
SAMPLES_PER_FRAME = 480


@contextmanager
def pinned_randomness(noise: Noise) -> Iterator[None]:
    """Make upstream's S3Gen draw from `noise`; T3 still draws from torch's generator."""
    phases = noise.phases(HARMONICS)

    class Uniform:
        def __init__(self, low: float, high: float) -> None:
            if not -low == high == torch.pi:
                raise ValueError(f"upstream draws from {low} to {high}, which are no phases")

        def sample(self, sample_shape: torch.Size) -> Tensor:
            return phases.view(sample_shape)

    usual_randn = torch.randn
    awaiting_length: list[Tensor] = []

    def randn(*size: int, generator: torch.Generator | None = None, **options: Any) -> Tensor:
        """Without a generator: the mean flow's draw for the new frames alone."""
        if generator is not None:
            return usual_randn(*size, generator=generator, **options)
        awaiting_length.append(torch.empty(size, **options))
        return awaiting_length[-1]

    def randn_like(like: Tensor) -> Tensor:
        _, channels, length = like.shape
        if channels == MEL_BANDS:
            drawn = noise.frames(NoiseStream.FLOW, 0, length, MEL_BANDS).T[None]
            if awaiting_length:  # the mean flow's second draw, of which it keeps the prompt's
                new = awaiting_length.pop()
                prompt_frames = length - new.shape[2]
                new.copy_(drawn[:, :, prompt_frames:])
                drawn[:, :, prompt_frames:] = 0
            return drawn
        if channels == HARMONICS:
            width = SAMPLES_PER_FRAME * HARMONICS
            frames = noise.frames(NoiseStream.EXCITATION, 0, length // SAMPLES_PER_FRAME, width)
            return frames.view(-1, HARMONICS).T[None]
        return torch.zeros_like(like)  # upstream does not use these

    with (
        mock.patch("chatterbox.models.s3gen.hifigan.Uniform", Uniform),
        mock.patch.object(torch, "randn", randn),
        mock.patch.object(torch, "randn_like", randn_like),
    ):
        yield
