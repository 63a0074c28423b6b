"""Draw noise from a seed by purpose and position only, independently of the order of calls."""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor


class NoiseStream(IntEnum):
    """Independent streams of random numbers, one per purpose."""

    FLOW = 0
    EXCITATION = 1
    PHASES = 2


_BLOCK_FRAMES = {NoiseStream.FLOW: 256, NoiseStream.EXCITATION: 32}
"""Frames drawn together; each block has its own generator, so blocks can come in any order."""


@dataclass(frozen=True)
class Noise:
    """The noise of one utterance of a request; `seed` and `utterance` are below 2³²."""

    seed: int
    utterance: int
    device: torch.device

    def frames(self, stream: NoiseStream, start: int, stop: int, width: int) -> Tensor:
        """Standard normal, float32 [stop - start, width]; a frame's row never changes."""
        size = _BLOCK_FRAMES[stream]
        blocks = [
            torch.randn(size, width, generator=self._generator(stream, block), device=self.device)
            for block in range(start // size, -(-stop // size))
        ]
        offset = start % size
        return torch.cat(blocks)[offset : offset + stop - start]

    def phases(self, count: int) -> Tensor:
        """Angles in radians, uniform from -π to π, float32 [count]."""
        generator = self._generator(NoiseStream.PHASES, 0)
        return torch.pi * (2 * torch.rand(count, generator=generator, device=self.device) - 1)

    def _generator(self, stream: NoiseStream, block: int) -> torch.Generator:
        # torch seeds its CPU generator with 32 bits only, so the four numbers are mixed first
        mixed = np.random.SeedSequence((self.seed, self.utterance, stream, block)).generate_state(1)
        return torch.Generator(self.device).manual_seed(int(mixed[0]))


class FrameNoise:
    """Keeps the noise of a growing utterance, so that each block is drawn once."""

    def __init__(self, noise: Noise, stream: NoiseStream, width: int) -> None:
        self._noise = noise
        self._stream = stream
        self._width = width
        self._drawn = torch.empty(0, width, device=noise.device)

    def take(self, stop: int) -> Tensor:
        """`Noise.frames` from the first frame on, float32 [stop, width]."""
        drawn = len(self._drawn)
        if stop > drawn:
            size = _BLOCK_FRAMES[self._stream]
            more = self._noise.frames(self._stream, drawn, stop + -stop % size, self._width)
            self._drawn = torch.cat([self._drawn, more])
        return self._drawn[:stop]
