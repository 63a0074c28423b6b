"""Splits a cleaned text into the text chunks that an engine generates one at a time.

Called by the pipeline. Lengths are in characters (code points).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import regex
import sentencex

from app.text.cleaning import SPEAKABLE, collapse_spaces
from app.text.languages import ENGLISH, Language
from app.text.patterns import pattern
from app.text.pauses import PAUSE, pause_s

SHORT_CHARS = 16
"""Models babble over shorter texts, so a chunk has at least this length where possible."""


@dataclass(frozen=True)
class TextChunk:
    """A piece of the text, short enough for one run of the model, and the silence after it."""

    text: str
    index: int
    pause_s: float = 0.0


def split(text: str, chunk_size: int, language: Language = ENGLISH) -> list[TextChunk]:
    """Split `text` into chunks of one line, at most as long as `chunk_size` (20 to 500) characters.

    The limit is for English; in another language it is the number of characters that take as long
    to speak. A chunk ends at each pause, and takes as many sentences as fit. A longer sentence is
    cut near its middle: after a clause, else after a word, else inside one, but never between a
    letter and its marks. Every chunk has a speakable character and all of those are kept; a long
    run of others may be dropped. `text` has no lone surrogates. Takes linear time.
    """
    max_chars = language.chunk_chars(chunk_size)
    segmenter = language.segmenter or language.code
    pieces: list[tuple[str, float]] = []
    for passage, length_s in _passages(collapse_spaces(text)):
        pieces += [(piece, 0.0) for piece in _split(passage, max_chars, segmenter)]
        if pieces:
            piece, before_s = pieces[-1]
            pieces[-1] = piece, max(before_s, length_s)
    return [TextChunk(piece, index, length_s) for index, (piece, length_s) in enumerate(pieces)]


def _passages(text: str) -> Iterator[tuple[str, float]]:
    """The text between two pauses, and the length of the second in seconds."""
    start = 0
    for pause in PAUSE.finditer(text):
        yield text[start : pause.start()], pause_s(pause[0])
        start = pause.end()
    yield text[start:], 0


def _split(text: str, max_chars: int, segmenter: str) -> list[str]:
    chunks, start = [], 0
    while len(text) - start > max_chars:
        window = text[start : start + 2 * max_chars]
        end = start + _chunk_end(window, max_chars, segmenter)
        chunks.append(text[start:end])
        start = _SPACES.match(text, end).end()
    chunks.append(text[start:])
    return [" ".join(chunk.split()) for chunk in chunks if SPEAKABLE.search(chunk)]


# --- Where a chunk ends -----------------------------------------------------------------------


_Boundary = tuple[Callable[[str], list[int]], int]
"""Finds the ends of a kind of unit; the fewest characters that may be left on either side."""


def _chunk_end(window: str, max_chars: int, segmenter: str) -> int:
    """The best end for the chunk at the start of `window`, which is at most two chunks of text.

    Of each kind of boundary, the nearest to the middle of the piece that is too long is best.
    """
    too_long = len(window)
    boundaries: list[_Boundary] = [
        (partial(_sentence_ends, segmenter=segmenter), SHORT_CHARS),
        *_BOUNDARIES,
    ]
    for ends_in, shortest in boundaries:
        first = min(shortest, max_chars // 4)
        last = min(max_chars, len(window) - first)
        ends = ends_in(window)
        if fitting := [end for end in ends if first <= end <= last]:
            middle = too_long / 2
            return min(fitting, key=lambda end: abs(end - middle))
        too_long = next((end for end in ends if end > last), too_long)
    raise AssertionError("a letter with its marks fits every chunk")


def _sentence_ends(window: str, segmenter: str) -> list[int]:
    script = _SCRIPT.search(window)
    ends, start = [], 0
    for sentence in sentencex.segment((script and script.lastgroup) or segmenter, window):
        words = sentence.rstrip()
        end = start + len(words)
        if not _ITEM_NUMBER.fullmatch(words) and not _INSIDE_WORD.match(window, end):
            ends.append(end)
        start += len(sentence)
    return ends


def _ends_of(pattern: regex.Pattern[str]) -> Callable[[str], list[int]]:
    return lambda window: [match.end() for match in pattern.finditer(window)]


# --- Character classes ------------------------------------------------------------------------


_SPACES = pattern(r"\s*")

# sentencex finds the full stops of every script; abbreviations depend on the language.
_SCRIPT = pattern(r"(?P<ru>\p{Cyrillic}{2})|(?P<el>\p{Greek}{2})")
_ITEM_NUMBER = pattern(r"\p{Nd}+\.")
_INSIDE_WORD = pattern(r"(?<=\.)\S|(?<=\p{ASCII})[!-~]")  # Example.Com, т.Е., a?B=c

_CLOSERS = r"[\p{Pe}\p{Pf}\"']{0,3}+"
_CLAUSE_END = pattern(
    rf"[\p{{Terminal_Punctuation}}--\p{{ASCII}}]++{_CLOSERS}(?!\p{{Nd}})"
    rf"|[,;:)\]–—-]{_CLOSERS}(?=\s)"
)
# French puts a space before its marks; two words in brackets may be the name of a sound.
_WORD_END = pattern(r"\S(?=\s+[^\s!?:;,.%»)\]}])(?!(?<=\[\p{L}{1,16})\s++\p{L}++\])")
_ADDRESS_EDGE = pattern(r"\S(?=\s[!-~])|[!-~](?=\s)")
# Unicode's word boundaries, for text without spaces; Thai and similar scripts have none (LB=SA).
_PART_END = pattern(
    r"(?w)(?<=[^\s\p{Ps}\p{Pi}\p{Sc}\p{LB=SA}])\b(?=[[^\s\p{P}\p{M}\p{Sc}]\p{Ps}\p{Pi}])"
)
# Some Thai and Lao vowels are separate letters before or after their consonant.
_GRAPHEME_END = pattern(r"[\u0E40-\u0E44\u0EC0-\u0EC4]?\X\p{M}*[\u0E30\u0E32\u0EB0\u0EB2]?")
_LETTER_END = pattern(rf"{SPEAKABLE.pattern}|.")

# Each with the fewest characters it may leave on either side: addresses are kept in one piece.
_BOUNDARIES: tuple[_Boundary, ...] = (
    (_ends_of(_CLAUSE_END), SHORT_CHARS),
    (_ends_of(_WORD_END), SHORT_CHARS),
    (_ends_of(_ADDRESS_EDGE), 1),
    (_ends_of(_PART_END), SHORT_CHARS),
    (_ends_of(_GRAPHEME_END), SHORT_CHARS),
    (_ends_of(_LETTER_END), SHORT_CHARS),
)
