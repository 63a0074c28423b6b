"""Solvers of the flow's differential equation, which lead from noise to the mel in a few steps."""

import torch
from chatterbox.models.s3gen.flow_matching import CausalConditionalCFM
from torch import Tensor

from app.engines.chatterbox.runtime.compilation import NO_COMPILER, Compiler
from app.engines.chatterbox.s3gen.estimator import Estimator
from app.engines.chatterbox.variants import FlowSpec


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
        """[inputs, 240, frames] → the estimator's rows, [2·inputs, 240, frames]."""
        return torch.cat([conditioning, torch.zeros_like(conditioning)]).contiguous()

    def step(
        self, x: Tensor, conditioning: Tensor, start: Tensor, stop: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Advance the mel `x`, float32 [inputs, 80, frames], from time `start` to `stop`.

        `conditioning`: expanded. `start`, `stop`: float32 []. `mask`: bool [inputs, frames], False
        for padding frames; or None.
        """
        rows = torch.cat([x.repeat(2, 1, 1), conditioning], dim=1)
        if mask is not None:
            mask = mask.repeat(2, 1)
        velocity = self._estimator(rows, start.expand(len(rows)), mask)
        conditional, unconditional = velocity.chunk(2)
        guided = (1 + self.guidance) * conditional - self.guidance * unconditional
        return x + (stop - start) * guided


SOLVERS = {"euler_cfg": EulerCfg}


def step_times(spec: FlowSpec, device: torch.device) -> Tensor:
    """Times at which steps begin and end, from 0 to 1, on a cosine: float32 [steps + 1]."""
    steps = torch.linspace(0, 1, spec.steps + 1, device=device)
    times: Tensor = 1 - torch.cos(steps * 0.5 * torch.pi)
    return times
