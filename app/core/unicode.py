"""Unicode normalisation in linear time, for texts and names from clients."""

import unicodedata

import regex

MAX_MARKS = 30
"""Combining marks in a row that are kept (UAX #15, Stream-Safe Text Format)."""

MAX_DECOMPOSITION = 4
"""No character of NFC is longer in any canonically equivalent form, in code points."""

_EXCESS_MARKS = regex.compile(rf"(\p{{M}}{{{MAX_MARKS}}})\p{{M}}++")


def nfc(text: str) -> str:
    """Return `text` in NFC, without the marks after `MAX_MARKS` in a row.

    CPython sorts a run of marks by insertion, which takes quadratic time.
    """
    return unicodedata.normalize("NFC", _EXCESS_MARKS.sub(r"\1", text))
