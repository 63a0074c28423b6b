"""Cleaning of a request's text: Unicode and punctuation, once, when it is accepted.

Called by the speech service; what it returns is what a job carries.
"""

from itertools import groupby
from unicodedata import normalize

import regex

from app.core.errors import EmptyText


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
    cleaned: str = _SPACED_DASH.sub(",", collapse_spaces(plain)).replace(" ,", ",")
    if not SPOKEN.search(cleaned):
        raise EmptyText("There is nothing in this text that can be spoken.", param="text")
    return cleaned


def collapse_spaces(text: str) -> str:
    """Single spaces within a paragraph, a blank line between two, nothing at the ends."""
    lines = (" ".join(line.split()) for line in text.splitlines())
    return "\n\n".join(" ".join(group) for filled, group in groupby(lines, bool) if filled)


def pattern(source: str) -> regex.Pattern[str]:
    return regex.compile(source, regex.V1 | regex.DOTALL)  # V1: sets can be added and subtracted


_PLAIN_PUNCTUATION = str.maketrans(
    {"…": ", ", "—": "-", "–": "-", "“": '"', "”": '"', "‘": "'", "’": "'"}
)
_SPACED_DASH = pattern(r" -(?= )")
_INVISIBLE = pattern(
    r"[[\p{Cc}\p{Cs}\p{Default_Ignorable_Code_Point}\uFFF9-\uFFFB]--[\s\x1C-\x1F\u200C\u200D]]"
)
# A joiner or non-joiner tells words apart where letters join, as in Persian and Hindi; elsewhere
# it shapes glyphs, joins emoji or hides.
_JOINING = r"[[\p{L}\p{M}]--[\p{Latin}\p{Greek}\p{Cyrillic}]]"
_JOINERS = pattern(rf"(?<={_JOINING})([\u200C\u200D])[\u200C\u200D]*+(?={_JOINING})|[\u200C\u200D]")


_VOICED = r"[[\p{L}\p{N}\p{Sc}%‰&@#§°℃℉№]||[\p{Sm}--\p{Extended_Pictographic}--[|~]]]"
# No script stacks more than seven marks; a letter that is haunted by more must still fit a chunk.
SPOKEN = pattern(rf"{_VOICED}[\p{{M}}\u200C\u200D]{{0,7}}")
"""What a voice reads: a letter with its marks, a digit, a sign that has a name."""
