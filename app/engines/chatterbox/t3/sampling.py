"""Sample one speech token for each sequence from the logits of one step.

Each sampler computes what upstream's logits processor (from transformers) computes, for a batch
that mixes requests.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from app.core.params import SynthesisParams
from app.engines.chatterbox.variants import Sampler


class SamplingTensors(NamedTuple):
    """Sampling parameters of a batch, each float32 [rows, 1]."""

    guidance: Tensor
    repetition_penalty: Tensor
    temperature: Tensor
    min_p: Tensor
    top_k: Tensor
    one_minus_top_p: Tensor

    @classmethod
    def from_rows(cls, rows: Tensor) -> "SamplingTensors":
        """`rows`: from `sampling_row`, float32 [rows, 6]."""
        return cls(*rows[:, :, None].unbind(1))


def sampling_row(params: SynthesisParams) -> Tensor:
    """A request's sampling parameters in the order of `SamplingTensors`, float32 [6]."""
    return torch.tensor(
        [
            params.cfg_guidance_weight,
            params.repetition_penalty,
            params.synthesis_temperature,
            params.min_p,
            params.top_k,
            1 - params.top_p,  # subtracted in double precision, like upstream
        ]
    )


def sample(
    logits: Tensor,
    token_seen: Tensor,
    params: SamplingTensors,
    noise: Tensor,
    samplers: tuple[Sampler, ...],
) -> Tensor:
    """The next token of each row, int64 [rows].

    `logits`: float32 [rows, rows_per_sequence, vocabulary]. `token_seen`: bool [rows, vocabulary],
    the tokens that the repetition penalty is for. `noise`: float32 [rows, vocabulary], Exp(1).
    """
    scores = logits.squeeze(1)
    for name in samplers:
        scores = SAMPLERS[name](scores, token_seen, params)
    return sample_exponential(scores.softmax(-1), noise)


SAMPLERS: dict[Sampler, Callable[[Tensor, Tensor, SamplingTensors], Tensor]] = {
    "cfg": lambda scores, seen, params: apply_cfg(scores, params.guidance),
    "repetition_penalty": lambda scores, seen, params: apply_repetition_penalty(
        scores, seen, params.repetition_penalty
    ),
    "temperature": lambda scores, seen, params: scores / params.temperature,
    "min_p": lambda scores, seen, params: apply_min_p(scores, params.min_p),
    "top_k": lambda scores, seen, params: apply_top_k(scores, params.top_k),
    "top_p": lambda scores, seen, params: apply_top_p(scores, params.one_minus_top_p),
}


def apply_cfg(logits: Tensor, weight: Tensor) -> Tensor:
    """Classifier-free guidance: [rows, 2 (conditional, unconditional), n] → [rows, n]."""
    conditional, unconditional = logits.unbind(1)
    return conditional + weight * (conditional - unconditional)


def apply_repetition_penalty(scores: Tensor, token_seen: Tensor, penalty: Tensor) -> Tensor:
    """Make tokens that have occurred less likely (Keskar et al. 2019, CTRL)."""
    penalised = torch.where(scores < 0, scores * penalty, scores / penalty)
    return torch.where(token_seen, penalised, scores)


def apply_min_p(scores: Tensor, min_p: Tensor) -> Tensor:
    """Exclude tokens less likely than `min_p` times the most likely one."""
    probabilities = scores.softmax(-1)
    unlikely = probabilities < min_p * probabilities.amax(-1, keepdim=True)
    return scores.masked_fill(unlikely, -torch.inf)


def apply_top_k(scores: Tensor, top_k: Tensor) -> Tensor:
    """Exclude all but the `top_k` most likely tokens and those as likely as the last of them."""
    last = top_k.long().clamp(max=scores.shape[-1]) - 1
    least = scores.sort(-1, descending=True).values.take_along_dim(last, dim=-1)
    return scores.masked_fill(scores < least, -torch.inf)


def apply_top_p(scores: Tensor, one_minus_top_p: Tensor) -> Tensor:
    """Exclude the least likely tokens, of at most `one_minus_top_p` together; keep at least one."""
    ascending, order = scores.sort(-1)
    excluded = ascending.softmax(-1).cumsum(-1) <= one_minus_top_p
    excluded[:, -1] = False
    return scores.masked_fill(excluded.scatter(-1, order, excluded), -torch.inf)


def sample_exponential(probabilities: Tensor, noise: Tensor) -> Tensor:
    """Sample one token per row as argmax(p / Exp(1) noise), as `torch.multinomial` does."""
    return (probabilities / noise).argmax(-1)
