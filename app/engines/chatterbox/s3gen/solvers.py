"""Solvers of the flow's differential equation, which lead from noise to the mel in a few steps."""

from typing import Protocol

import torch
from chatterbox.models.s3gen.flow_matching import CausalConditionalCFM
from torch import Tensor

from app.engines.chatterbox.runtime.compilation import NO_COMPILER, Compiler
from app.engines.chatterbox.s3gen.estimator import Estimator
from app.engines.chatterbox.variants import FlowSpec


class Solver(Protocol):
    """Advances mels from noise, at the first of `times`, to speech, at the last.

    `times`: float32 [steps + 1], from 0 to 1. `rows_per_input`: rows of each mel in the estimator.
    """

    times: Tensor
    rows_per_input: int

    def expand(self, conditioning: Tensor) -> Tensor:
        """[inputs, 240, frames] → the estimator's rows, [rows_per_input·inputs, 240, frames]."""
        ...

    def step(
        self, x: Tensor, conditioning: Tensor, start: Tensor, stop: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Advance the mel `x`, float32 [inputs, 80, frames], from time `start` to `stop`.

        `conditioning`: expanded. `start`, `stop`: float32 []. `mask`: bool [inputs, frames], False
        for padding frames; or None.
        """
        ...


class EulerCfg:
    """Euler steps with classifier-free guidance: upstream's `ConditionalCFM.solve_euler`."""

    rows_per_input = 2
    """The estimator computes each mel with and without conditioning."""

    def __init__(
        self, spec: FlowSpec, decoder: CausalConditionalCFM, compiler: Compiler = NO_COMPILER
    ) -> None:
        self.times = step_times(spec, decoder.estimator.final_proj.weight.device)
        self.guidance: float = decoder.inference_cfg_rate
        self._estimator = Estimator(decoder.estimator, compiler)

    def expand(self, conditioning: Tensor) -> Tensor:
        return torch.cat([conditioning, torch.zeros_like(conditioning)]).contiguous()

    def step(
        self, x: Tensor, conditioning: Tensor, start: Tensor, stop: Tensor, mask: Tensor | None
    ) -> Tensor:
        rows = torch.cat([x.repeat(2, 1, 1), conditioning], dim=1)
        if mask is not None:
            mask = mask.repeat(2, 1)
        time_emb = self._estimator.embed_time(start.expand(len(rows)))
        velocity = self._estimator(rows, time_emb, mask)
        conditional, unconditional = velocity.chunk(2)
        guided = (1 + self.guidance) * conditional - self.guidance * unconditional
        return x + (stop - start) * guided


class MeanFlow:
    """Few steps by the mean velocity over each: upstream's `CausalConditionalCFM.basic_euler`.

    The estimator was distilled from a guided one, so there is no guidance.
    """

    rows_per_input = 1

    def __init__(
        self, spec: FlowSpec, decoder: CausalConditionalCFM, compiler: Compiler = NO_COMPILER
    ) -> None:
        device = decoder.estimator.final_proj.weight.device
        self.times = torch.linspace(0, 1, spec.steps + 1, device=device)
        self._estimator = Estimator(decoder.estimator, compiler)
        self._mix_times = decoder.estimator.time_embed_mixer

    def expand(self, conditioning: Tensor) -> Tensor:
        return conditioning.contiguous()

    def step(
        self, x: Tensor, conditioning: Tensor, start: Tensor, stop: Tensor, mask: Tensor | None
    ) -> Tensor:
        rows = torch.cat([x, conditioning], dim=1)
        times = [self._estimator.embed_time(time.expand(len(rows))) for time in (start, stop)]
        velocity = self._estimator(rows, self._mix_times(torch.cat(times, dim=1)), mask)
        return x + (stop - start) * velocity


SOLVERS: dict[str, type[EulerCfg] | type[MeanFlow]] = {
    "euler_cfg": EulerCfg,
    "mean_flow": MeanFlow,
}
"""By `FlowSpec.solver`."""


def step_times(spec: FlowSpec, device: torch.device) -> Tensor:
    """Times at which guided steps begin and end, on a cosine: float32 [steps + 1]."""
    steps = torch.linspace(0, 1, spec.steps + 1, device=device)
    times: Tensor = 1 - torch.cos(steps * 0.5 * torch.pi)
    return times
