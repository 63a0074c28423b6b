"""Split a recording of speech at its quietest moments."""

import numpy as np

from app.core.audio import TOKENS_PER_SECOND, Samples

SEARCHED = 0.25
"""The last part of a piece, in which the quietest moment is looked for."""


def split_at_pauses(
    speech: Samples, rate: int, longest_s: float, overlap: int = 0
) -> list[Samples]:
    """Pieces of `speech`, float32 [n] at `rate` Hz, of at most `longest_s` seconds each.

    All but the last are as long as a whole number of speech tokens, and all are at least a token
    long if `speech` is. Each after the first also has, in front, so many tokens of the one before
    as `overlap` says.
    """
    token = rate // TOKENS_PER_SECOND
    longest = int(longest_s * rate) // token * token
    pieces, begin = [], 0
    while len(rest := speech[begin:]) > longest:
        end = begin + _quietest(rest, longest, token)
        pieces.append(speech[max(0, begin - overlap * token) : end])
        begin = end
    return [*pieces, speech[max(0, begin - overlap * token) :]]


def _quietest(speech: Samples, longest: int, token: int) -> int:
    """Where to cut `speech`: before `longest` samples, and before its last token."""
    first = int(longest * (1 - SEARCHED)) // token * token
    last = min(longest, (len(speech) - token) // token * token)
    loudness = (speech[first:last].reshape(-1, token) ** 2).sum(axis=1)
    # Two neighbours together: the cut is between them.
    quietest = int(np.argmin(loudness[:-1] + loudness[1:])) + 1
    return first + quietest * token
