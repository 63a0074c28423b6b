"""Clean the Unicode text of a request when it is accepted, independently of the model.

Called by the speech service; jobs carry the result.
"""

from itertools import groupby

import regex

from app.core.errors import EmptyText
from app.core.unicode import nfc


def clean(text: str) -> str:
    """`text` in NFC, without invisible characters and with normal spaces.

    Paragraphs stay separated by a blank line. Idempotent. Raises `EmptyText` if nothing speakable
    remains.
    """
    visible = _JOINERS.sub(r"\1", _INVISIBLE.sub("", text))
    cleaned = collapse_spaces(nfc(visible))
    if not SPEAKABLE.search(cleaned):
        raise EmptyText("There is nothing in this text that can be spoken.", param="text")
    return cleaned


def collapse_spaces(text: str) -> str:
    """Single spaces within a paragraph, a blank line between two, nothing at the ends."""
    lines = (" ".join(line.split()) for line in text.splitlines())
    return "\n\n".join(" ".join(group) for filled, group in groupby(lines, bool) if filled)


def pattern(source: str) -> regex.Pattern[str]:
    return regex.compile(source, regex.V1 | regex.DOTALL)  # V1: sets can be added and subtracted


_INVISIBLE = pattern(
    r"[[\p{Cc}\p{Cs}\p{Default_Ignorable_Code_Point}\uFFF9-\uFFFB]--[\s\x1C-\x1F\u200C\u200D]]"
)
# A joiner or non-joiner separates words where letters join, as in Persian and Hindi; elsewhere it
# shapes glyphs or joins emoji.
_JOINING = r"[[\p{L}\p{M}]--[\p{Latin}\p{Greek}\p{Cyrillic}]]"
_JOINERS = pattern(rf"(?<={_JOINING})([\u200C\u200D])[\u200C\u200D]*+(?={_JOINING})|[\u200C\u200D]")


_VOICED = r"[[\p{L}\p{N}\p{Sc}%‰&@#§°℃℉№]||[\p{Sm}--\p{Extended_Pictographic}--[|~]]]"
# Combining marks are capped at seven, more than any script uses, so that a grapheme with more of
# them (zalgo text) still fits a chunk.
SPEAKABLE = pattern(rf"{_VOICED}[\p{{M}}\u200C\u200D]{{0,7}}")
"""What a voice reads: a letter with its marks, a digit, a sign that has a name."""
