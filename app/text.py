"""The text of a request: cleaned when it is accepted, split into text chunks when it is spoken.

`clean` makes of a request's text what a job carries; `split` makes of that the pieces which an
engine speaks in one go. Lengths are in characters (code points), as in the API's limits.
"""

from collections.abc import Callable
from itertools import groupby
from unicodedata import normalize

import regex
import sentencex

from app.errors import EmptyText

SHORT_CHARS = 16
"""A model babbles over less text than this, so nothing shorter is cut off if that can be helped."""


def clean(text: str) -> str:
    """`text` in NFC, without invisible characters, in the punctuation that the model knows.

    Quotes, dashes, ellipses and white space become what upstream's `punc_norm` (chatterbox/tts.py)
    makes of them; its other replacements are left to the engine. So that cleaning twice changes
    nothing, a long dash between spaces becomes a comma too, as a short one does there, and no
    double space is left behind. Paragraphs stay apart by a blank line. Raises `EmptyText` when
    nothing speakable remains.
    """
    visible = _JOINERS.sub(r"\1", _INVISIBLE.sub("", text))
    plain = normalize("NFC", visible).translate(_PLAIN_PUNCTUATION).replace("...", ", ")
    cleaned: str = _SPACED_DASH.sub(",", _collapse_spaces(plain)).replace(" ,", ",")
    if not SPOKEN.search(cleaned):
        raise EmptyText("There is nothing in this text that can be spoken.", param="text")
    return cleaned


def split(text: str, max_chars: int) -> list[str]:
    """The text chunks of `text`, each of 1 to `max_chars` (20 to 500) characters on one line.

    A chunk takes as many sentences as fit. A sentence that does not fit is cut near its middle:
    after a clause, else after a word, else inside one, but never between a letter and its marks.
    No speakable character is lost, and no chunk is without one: a long run of anything else may
    be dropped. `text` has no lone surrogates. Takes time in proportion to the length.
    """
    text = _collapse_spaces(text)
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


def _collapse_spaces(text: str) -> str:
    """Single spaces within a paragraph, a blank line between two, nothing at the ends."""
    lines = (" ".join(line.split()) for line in text.splitlines())
    return "\n\n".join(" ".join(group) for filled, group in groupby(lines, bool) if filled)


# --- What the characters are ------------------------------------------------------------------


def _pattern(source: str) -> regex.Pattern[str]:
    return regex.compile(source, regex.V1 | regex.DOTALL)  # V1: sets can be added and subtracted


_PLAIN_PUNCTUATION = str.maketrans(
    {"…": ", ", "—": "-", "–": "-", "“": '"', "”": '"', "‘": "'", "’": "'"}
)
_SPACED_DASH = _pattern(r" -(?= )")
_SPACES = _pattern(r"\s*")

_INVISIBLE = _pattern(
    r"[[\p{Cc}\p{Cs}\p{Default_Ignorable_Code_Point}\uFFF9-\uFFFB]--[\s\x1C-\x1F\u200C\u200D]]"
)
# A joiner or non-joiner tells words apart where letters join, as in Persian and Hindi; elsewhere
# it shapes glyphs, joins emoji or hides.
_JOINING = r"[[\p{L}\p{M}]--[\p{Latin}\p{Greek}\p{Cyrillic}]]"
_JOINERS = _pattern(
    rf"(?<={_JOINING})([\u200C\u200D])[\u200C\u200D]*+(?={_JOINING})|[\u200C\u200D]"
)

_VOICED = r"[[\p{L}\p{N}\p{Sc}%‰&@#§°℃℉№]||[\p{Sm}--\p{Extended_Pictographic}--[|~]]]"
# No script stacks more than seven marks; a letter that is haunted by more must still fit a chunk.
SPOKEN = _pattern(rf"{_VOICED}[\p{{M}}\u200C\u200D]{{0,7}}")
"""What a voice reads: a letter with its marks, a digit, a sign that has a name."""

# sentencex finds the full stops of every script, but goes by language for abbreviations.
_SCRIPT = _pattern(r"(?P<ru>\p{Cyrillic}{2})|(?P<el>\p{Greek}{2})")
_ITEM_NUMBER = _pattern(r"\p{Nd}+\.")
_INSIDE_WORD = _pattern(r"(?<=\.)\S|(?<=\p{ASCII})[!-~]")  # Example.Com, т.Е., a?B=c

_CLOSERS = r"[\p{Pe}\p{Pf}\"']{0,3}+"
_CLAUSE_END = _pattern(
    rf"[\p{{Terminal_Punctuation}}--\p{{ASCII}}]++{_CLOSERS}(?!\p{{Nd}})"
    rf"|[,;:)\]–—-]{_CLOSERS}(?=\s)"
)
_WORD_END = _pattern(r"\S(?=\s+[^\s!?:;,.%»)\]}])")  # French puts a space before its marks
_ADDRESS_EDGE = _pattern(r"\S(?=\s[!-~])|[!-~](?=\s)")
# Unicode's word boundaries, for text without spaces; it has none for Thai and its like (LB=SA).
_PART_END = _pattern(
    r"(?w)(?<=[^\s\p{Ps}\p{Pi}\p{Sc}\p{LB=SA}])\b(?=[[^\s\p{P}\p{M}\p{Sc}]\p{Ps}\p{Pi}])"
)
# Some Thai and Lao vowels lead their letter and some follow, as letters in their own right.
_GRAPHEME_END = _pattern(r"[\u0E40-\u0E44\u0EC0-\u0EC4]?\X\p{M}*[\u0E30\u0E32\u0EB0\u0EB2]?")
_LETTER_END = _pattern(rf"{SPOKEN.pattern}|.")

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
