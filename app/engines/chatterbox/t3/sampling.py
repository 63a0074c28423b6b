"""Sampling: the logits of one step enter, one speech token for each row leaves.

Every setting is a tensor with a row for each slot, so one compiled step serves all requests. The
order is that of upstream's `T3.inference`, the formulas are those of the logits processors that it
takes from transformers. Called by `t3` in every step.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from app.core.params import SynthesisParams


class Controls(NamedTuple):
    """How the next token is chosen, each float32 [rows, 1]."""

    guidance: Tensor
    repetition_penalty: Tensor
    temperature: Tensor
    min_p: Tensor
    tail: Tensor  # 1 - top_p: the share of unlikely tokens that is never drawn

    @classmethod
    def from_table(cls, table: Tensor) -> "Controls":
        """Of rows as `controls_row` makes them, float32 [rows, 5]."""
        return cls(*table[:, :, None].unbind(1))


def controls_row(params: SynthesisParams) -> Tensor:
    """What a request says about sampling, float32 [5], in the order of `Controls`."""
    return torch.tensor(
        [
            params.cfg_guidance_weight,
            params.repetition_penalty,
            params.synthesis_temperature,
            params.min_p,
            1 - params.top_p,  # in double precision, as upstream subtracts
        ]
    )


def sample(logits: Tensor, seen: Tensor, controls: Controls, noise: Tensor) -> Tensor:
    """The next token of each row, int64 [rows].

    `logits`: float32 [rows, 2, vocabulary], conditional and unconditional; `seen`: bool [rows,
    vocabulary], the start token and all tokens since; `noise`: float32 [rows, vocabulary], drawn
    from the exponential distribution of rate 1.
    """
    scores = guide(logits, controls.guidance)
    scores = penalise(scores, seen, controls.repetition_penalty)
    scores = scores / controls.temperature
    scores = drop_unlikely(scores, controls.min_p)
    scores = drop_tail(scores, controls.tail)
    return draw(scores.softmax(-1), noise)


def guide(logits: Tensor, weight: Tensor) -> Tensor:
    """Away from what would be said without the text; with weight 0, the conditional logits."""
    conditional, unconditional = logits.unbind(1)
    return conditional + weight * (conditional - unconditional)


def penalise(scores: Tensor, seen: Tensor, penalty: Tensor) -> Tensor:
    """Make what was said before less likely (Keskar et al. 2019, CTRL)."""
    return torch.where(seen, torch.where(scores < 0, scores * penalty, scores / penalty), scores)


def drop_unlikely(scores: Tensor, min_p: Tensor) -> Tensor:
    """Rule out what is less likely than `min_p` times the likeliest token."""
    probabilities = scores.softmax(-1)
    unlikely = probabilities < min_p * probabilities.amax(-1, keepdim=True)
    return scores.masked_fill(unlikely, -torch.inf)


def drop_tail(scores: Tensor, tail: Tensor) -> Tensor:
    """Rule out the unlikeliest tokens, together at most `tail`; the likeliest always stays."""
    ascending, order = scores.sort(-1)
    dropped = ascending.softmax(-1).cumsum(-1) <= tail
    dropped[:, -1] = False
    return scores.masked_fill(dropped.scatter(-1, order, dropped), -torch.inf)


def draw(probabilities: Tensor, noise: Tensor) -> Tensor:
    """A draw of one token a row: what rings first, if tokens ring at the rate of their probability.

    The very computation inside `torch.multinomial`, which takes no noise from outside.
    """
    return (probabilities / noise).argmax(-1)
