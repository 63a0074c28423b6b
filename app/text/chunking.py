"""Splitting of a cleaned text into the text chunks that an engine speaks in one go.

Called by the pipeline. Lengths are in characters (code points), as in the API's limits.
"""

from collections.abc import Callable

import regex
import sentencex

from app.text.cleaning import SPOKEN, collapse_spaces, pattern

SHORT_CHARS = 16
"""A model babbles over less text than this, so nothing shorter is cut off if that can be helped."""


def split(text: str, max_chars: int) -> list[str]:
    """The text chunks of `text`, each of 1 to `max_chars` (20 to 500) characters on one line.

    A chunk takes as many sentences as fit. A sentence that does not fit is cut near its middle:
    after a clause, else after a word, else inside one, but never between a letter and its marks.
    No speakable character is lost, and no chunk is without one: a long run of anything else may
    be dropped. `text` has no lone surrogates. Takes time in proportion to the length.
    """
    text = collapse_spaces(text)
    chunks, start = [], 0
    while len(text) - start > max_chars:
        end = start + _chunk_end(text[start : start + 2 * max_chars], max_chars)
        chunks.append(text[start:end])
        start = _SPACES.match(text, end).end()
    chunks.append(text[start:])
    return [" ".join(chunk.split()) for chunk in chunks if SPOKEN.search(chunk)]


# --- Where a chunk ends -----------------------------------------------------------------------


def _chunk_end(window: str, max_chars: int) -> int:
    """The best end for the chunk that starts `window`: the rest of the text, two chunks at most.

    Each kind of boundary is wanted near the middle of what the kind before it leaves too long.
    """
    too_long = len(window)
    for ends_in, shortest in _BOUNDARIES:
        first = min(shortest, max_chars // 4)
        last = min(max_chars, len(window) - first)
        ends = ends_in(window)
        if fitting := [end for end in ends if first <= end <= last]:
            middle = too_long / 2
            return min(fitting, key=lambda end: abs(end - middle))
        too_long = next((end for end in ends if end > last), too_long)
    raise AssertionError("a letter and its marks fit every chunk")


def _sentence_ends(window: str) -> list[int]:
    script = _SCRIPT.search(window)
    ends, start = [], 0
    for sentence in sentencex.segment(script.lastgroup if script else "en", window):
        words = sentence.rstrip()
        end = start + len(words)
        if not _ITEM_NUMBER.fullmatch(words) and not _INSIDE_WORD.match(window, end):
            ends.append(end)
        start += len(sentence)
    return ends


def _ends_of(pattern: regex.Pattern[str]) -> Callable[[str], list[int]]:
    return lambda window: [match.end() for match in pattern.finditer(window)]


# --- What the characters are ------------------------------------------------------------------


_SPACES = pattern(r"\s*")

# sentencex finds the full stops of every script, but goes by language for abbreviations.
_SCRIPT = pattern(r"(?P<ru>\p{Cyrillic}{2})|(?P<el>\p{Greek}{2})")
_ITEM_NUMBER = pattern(r"\p{Nd}+\.")
_INSIDE_WORD = pattern(r"(?<=\.)\S|(?<=\p{ASCII})[!-~]")  # Example.Com, т.Е., a?B=c

_CLOSERS = r"[\p{Pe}\p{Pf}\"']{0,3}+"
_CLAUSE_END = pattern(
    rf"[\p{{Terminal_Punctuation}}--\p{{ASCII}}]++{_CLOSERS}(?!\p{{Nd}})"
    rf"|[,;:)\]–—-]{_CLOSERS}(?=\s)"
)
_WORD_END = pattern(r"\S(?=\s+[^\s!?:;,.%»)\]}])")  # French puts a space before its marks
_ADDRESS_EDGE = pattern(r"\S(?=\s[!-~])|[!-~](?=\s)")
# Unicode's word boundaries, for text without spaces; it has none for Thai and its like (LB=SA).
_PART_END = pattern(
    r"(?w)(?<=[^\s\p{Ps}\p{Pi}\p{Sc}\p{LB=SA}])\b(?=[[^\s\p{P}\p{M}\p{Sc}]\p{Ps}\p{Pi}])"
)
# Some Thai and Lao vowels lead their letter and some follow, as letters in their own right.
_GRAPHEME_END = pattern(r"[\u0E40-\u0E44\u0EC0-\u0EC4]?\X\p{M}*[\u0E30\u0E32\u0EB0\u0EB2]?")
_LETTER_END = pattern(rf"{SPOKEN.pattern}|.")

# Each with the fewest characters it may leave on either side: an address is rather kept whole.
_BOUNDARIES: tuple[tuple[Callable[[str], list[int]], int], ...] = (
    (_sentence_ends, SHORT_CHARS),
    (_ends_of(_CLAUSE_END), SHORT_CHARS),
    (_ends_of(_WORD_END), SHORT_CHARS),
    (_ends_of(_ADDRESS_EDGE), 1),
    (_ends_of(_PART_END), SHORT_CHARS),
    (_ends_of(_GRAPHEME_END), SHORT_CHARS),
    (_ends_of(_LETTER_END), SHORT_CHARS),
)
