"""Drop invisible characters from a text."""

from app.text.patterns import pattern
from app.text.pauses import MARKS


def visible(text: str) -> str:
    """`text` without invisible characters and without marks of pauses."""
    seen: str = _JOINERS.sub(r"\1", _INVISIBLE.sub("", text))
    return seen


_INVISIBLE = pattern(
    rf"[[\p{{Cc}}\p{{Cs}}\p{{Default_Ignorable_Code_Point}}\uFFF9-\uFFFB{MARKS}]"
    r"--[\s\x1C-\x1F\u200C\u200D]]"
)
# A joiner or non-joiner separates words where letters join, as in Persian and Hindi; elsewhere it
# shapes glyphs or joins emoji.
_JOINING = r"[[\p{L}\p{M}]--[\p{Latin}\p{Greek}\p{Cyrillic}]]"
_JOINERS = pattern(rf"(?<={_JOINING})([\u200C\u200D])[\u200C\u200D]*+(?={_JOINING})|[\u200C\u200D]")
