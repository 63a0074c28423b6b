"""Noise: random numbers that depend on what they are for, never on when they are asked for.

A seed enters, tensors leave; called wherever S3Gen needs chance. Upstream draws anew in every
call, so that two solves of the same frames would be two different performances.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

_BLOCK = 32
"""Frames drawn together. A block has a generator of its own, so that any can come first."""


class Use(IntEnum):
    """What the numbers are for; different uses are independent of each other."""

    FLOW = 0
    SOURCE = 1
    PHASES = 2


@dataclass(frozen=True)
class Noise:
    """The noise of one utterance of a request; `seed` and `utterance` are below 2³²."""

    seed: int
    utterance: int
    device: torch.device

    def frames(self, use: Use, start: int, stop: int, width: int) -> Tensor:
        """Standard normal, float32 [stop - start, width]; a frame's row never changes."""
        blocks = [
            torch.randn(_BLOCK, width, generator=self._generator(use, block), device=self.device)
            for block in range(start // _BLOCK, stop // _BLOCK + 1)
        ]
        offset = start % _BLOCK
        return torch.cat(blocks)[offset : offset + stop - start]

    def phases(self, count: int) -> Tensor:
        """Angles in radians, uniform from -π to π, float32 [count]."""
        generator = self._generator(Use.PHASES, 0)
        return torch.pi * (2 * torch.rand(count, generator=generator, device=self.device) - 1)

    def _generator(self, use: Use, block: int) -> torch.Generator:
        # torch seeds its CPU generator with 32 bits only, so the four numbers are mixed first
        mixed = np.random.SeedSequence((self.seed, self.utterance, use, block)).generate_state(1)
        return torch.Generator(self.device).manual_seed(int(mixed[0]))
