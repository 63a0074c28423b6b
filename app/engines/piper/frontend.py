"""What espeak, the preview voice's frontend, needs of a text; imports no model code."""

import sentencex

from app.text.languages import ENGLISH
from app.text.patterns import pattern

_SPOKEN = {"approx": "approximately", "est": "established", "max": "maximum", "min": "minimum"}


def join_abbreviations(text: str) -> str:
    """Drop the full stops that end no sentence: espeak ends one at each before a space."""
    text = _STREET.sub("Street", text)
    text = _ABBREVIATION.sub(lambda match: _SPOKEN.get(match[1].lower(), match[1]), text)
    sentences = sentencex.segment(ENGLISH.segmenter, text)
    return "".join(_INNER_STOP.sub("", sentence) for sentence in sentences)


# Abbreviations that sentencex takes for the end of a sentence, at least before a digit.
_ABBREVIATION = pattern(
    r"(?i)\b(approx|ca|cf|ch|dept|ed|eq|est|esp|ext|fig|hr|hrs|incl|lbs?|max|min|no|nos|oz|p|pp|"
    r"para|pt|qty|sec|tel|temp|vol|vs|wt|yr|yrs)\.(?=\s+[\p{Ll}\p{Nd}(])"
)
_STREET = pattern(r"(?<=\p{Lu}\p{L}{1,30}\s)St\b\.?(?!\s\p{Lu})")
_INNER_STOP = pattern(r"(?<=\w)\.(?=\s+\S)")
