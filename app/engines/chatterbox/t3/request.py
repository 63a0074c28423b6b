"""T3's requests, and its outputs for each decoding step."""

from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

from torch import Tensor

from app.core.params import SynthesisParams
from app.engines.chatterbox.conditioning.conditionals import Conditionals


@dataclass(frozen=True)
class T3Request:
    """A text chunk to be synthesised.

    `text_tokens`: int64 [1, n], from the frontend. `seed`: of all random draws, below 2³² (torch
    ignores higher bits). After `max_tokens` speech tokens the sequence is cut off.
    """

    text_tokens: Tensor
    voice: Conditionals
    params: SynthesisParams
    seed: int
    max_tokens: int


class FinishReason(Enum):
    STOP = auto()  # T3 sampled the stop token (EOS)
    LENGTH = auto()  # `max_tokens` came first


class TokenOutput(NamedTuple):
    """One decoding step of a sequence. `token` is None for special tokens."""

    token: int | None
    finish_reason: FinishReason | None
