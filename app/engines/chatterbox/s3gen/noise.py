"""Noise: random numbers that depend on what they are for, never on when they are asked for.

A seed enters, tensors leave; called wherever S3Gen needs chance. Upstream draws anew in every
call, so that two solves of the same frames would be two different performances.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor


class Use(IntEnum):
    """What the numbers are for; different uses are independent of each other."""

    FLOW = 0
    SOURCE = 1
    PHASES = 2


_BLOCK = {Use.FLOW: 256, Use.SOURCE: 32}
"""Frames drawn together. A block has a generator of its own, so that any can come first."""


@dataclass(frozen=True)
class Noise:
    """The noise of one utterance of a request; `seed` and `utterance` are below 2³²."""

    seed: int
    utterance: int
    device: torch.device

    def frames(self, use: Use, start: int, stop: int, width: int) -> Tensor:
        """Standard normal, float32 [stop - start, width]; a frame's row never changes."""
        size = _BLOCK[use]
        blocks = [
            torch.randn(size, width, generator=self._generator(use, block), device=self.device)
            for block in range(start // size, -(-stop // size))
        ]
        offset = start % size
        return torch.cat(blocks)[offset : offset + stop - start]

    def phases(self, count: int) -> Tensor:
        """Angles in radians, uniform from -π to π, float32 [count]."""
        generator = self._generator(Use.PHASES, 0)
        return torch.pi * (2 * torch.rand(count, generator=generator, device=self.device) - 1)

    def _generator(self, use: Use, block: int) -> torch.Generator:
        # torch seeds its CPU generator with 32 bits only, so the four numbers are mixed first
        mixed = np.random.SeedSequence((self.seed, self.utterance, use, block)).generate_state(1)
        return torch.Generator(self.device).manual_seed(int(mixed[0]))


class FrameNoise:
    """The noise of an utterance that grows: drawn once, however often it is asked for."""

    def __init__(self, noise: Noise, use: Use, width: int) -> None:
        self._noise = noise
        self._use = use
        self._width = width
        self._drawn = torch.empty(0, width, device=noise.device)

    def until(self, stop: int) -> Tensor:
        """As `Noise.frames` from the first frame on, float32 [stop, width]."""
        drawn = len(self._drawn)
        if stop > drawn:
            size = _BLOCK[self._use]
            more = self._noise.frames(self._use, drawn, stop + -stop % size, self._width)
            self._drawn = torch.cat([self._drawn, more])
        return self._drawn[:stop]
