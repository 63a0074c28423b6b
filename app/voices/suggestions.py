"""What to say of a voice that does not exist: the likeliest one, and which there are."""

import difflib
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import islice, takewhile

from app.voices.snapshot import stem_of

MAX_LISTED = 10
MAX_COMPARED = 60
"""Voices whose names are compared letter by letter, on the event loop."""

MAX_COMPARED_LENGTH = 32
"""The time for it grows with the square of the names' lengths."""


def describe_voices(name: str, ids: Sequence[str], listing: str = "GET /voices") -> str:
    """Sentences for a client that asked for the voice `name`, which is not among `ids` (sorted).

    `listing`: what lists all of them.
    """
    if alike := _with_stem(name, ids):
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


def _with_stem(name: str, ids: Sequence[str]) -> list[str]:
    """The ids that `name` is short for, which stand together."""
    beginning = f"{name}."
    from_there = islice(ids, bisect_left(ids, beginning), None)
    longer = takewhile(lambda voice_id: voice_id.startswith(beginning), from_there)
    return [voice_id for voice_id in longer if stem_of(voice_id) == name]


def _likeliest(name: str, ids: Sequence[str]) -> str | None:
    """The id that differs from `name` in case only, or is spelt much like it."""
    if same := _equal_but_for_case(name, ids):
        return same
    names = {_compared(stem_of(voice_id)): voice_id for voice_id in _beginning_alike(name, ids)}
    near = difflib.get_close_matches(_compared(stem_of(name) or name), names, n=1)
    return names[near[0]] if near else None


def _equal_but_for_case(name: str, ids: Sequence[str]) -> str | None:
    wanted = name.casefold()
    for voice_id in [each for each in ids if each.casefold().startswith(wanted)]:
        if wanted in (voice_id.casefold(), stem_of(voice_id).casefold()):
            return voice_id
    return None


def _beginning_alike(name: str, ids: Sequence[str]) -> Iterator[str]:
    """Of many, those beside which `name`, in small letters or with a capital, would be sorted."""
    if len(ids) <= MAX_COMPARED:
        yield from ids
        return
    for spelling in {name, name.lower(), name.capitalize()}:
        at, half = bisect_left(ids, spelling), MAX_COMPARED // 6
        yield from ids[max(at - half, 0) : at + half]


def _compared(name: str) -> str:
    return name.casefold()[:MAX_COMPARED_LENGTH]
