"""Plain punctuation, for models that were not trained on typographic characters.

Called before a text is split, by engines whose model needs it.
"""

from app.text.cleaning import collapse_spaces
from app.text.patterns import pattern


def plain_punctuation(text: str) -> str:
    """Replace quotes, dashes and ellipses as upstream's `punc_norm` (chatterbox/tts.py) does.

    `text` is cleaned. To be idempotent, a long dash between spaces also becomes a comma, as a
    short one does upstream, and no double space remains. The other replacements of `punc_norm`
    are left to the engine.
    """
    plain = collapse_spaces(text.translate(_TYPOGRAPHIC).replace("...", ", "))
    replaced: str = _SPACED_DASH.sub(",", plain).replace(" ,", ",")
    return replaced


def plain_typography(text: str) -> str:
    """Replace typographic characters only, as upstream's other one (chatterbox/tts_turbo.py)."""
    return collapse_spaces(text.translate(_TYPOGRAPHIC)).replace(" ,", ",")


_TYPOGRAPHIC = str.maketrans(
    {"…": ", ", "—": "-", "–": "-", "“": '"', "”": '"', "‘": "'", "’": "'"}
)
_SPACED_DASH = pattern(r" -(?= )")
