"""What to say of a voice that does not exist: the likeliest one, and which there are."""

import difflib
from collections.abc import Sequence
from itertools import islice

from app.voices.snapshot import stem_of

MAX_LISTED = 10
MAX_COMPARED = 1000
"""Voices whose names are compared letter by letter, which takes longer the more there are."""

MAX_COMPARED_LENGTH = 64


def describe_voices(name: str, ids: Sequence[str], listing: str = "GET /voices") -> str:
    """Sentences that help a client whose `name` is none of the `ids`, which are sorted.

    `listing`: what lists all of them.
    """
    if alike := [voice_id for voice_id in ids if stem_of(voice_id) == name]:
        return f"Its ending is needed: there are {joined(alike)}."
    if not ids:
        return "There are none yet: POST /voices adds one."
    likely = _likeliest(name, ids)
    suggestion = f"Is {likely!r} meant? " if likely else ""
    if len(ids) <= MAX_LISTED:
        verb = "is" if len(ids) == 1 else "are"
        return f"{suggestion}There {verb} {joined(ids)}."
    first = ", ".join(ids[:MAX_LISTED])
    return f"{suggestion}There are {len(ids):,}: {first}, …; {listing} lists them all."


def joined(names: Sequence[str]) -> str:
    """`a, b and c`."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def _likeliest(name: str, ids: Sequence[str]) -> str | None:
    """The id that differs from `name` in case only, or is spelt much like it."""
    wanted = name.casefold()
    for voice_id in ids:
        if wanted in (voice_id.casefold(), stem_of(voice_id).casefold()):
            return voice_id
    wanted = wanted[:MAX_COMPARED_LENGTH]
    names = {stem_of(voice_id).casefold(): voice_id for voice_id in islice(ids, MAX_COMPARED)}
    stem = stem_of(wanted) or wanted
    near = difflib.get_close_matches(stem, names, n=1)
    return names[near[0]] if near else None
