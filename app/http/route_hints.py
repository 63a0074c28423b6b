"""Suggest the route that an unknown path resembles, or that does what its words say."""

import difflib
from collections.abc import Collection

MAX_PATH_LENGTH = 200
"""Of a path that is compared with routes; comparing takes longer for longer ones."""

_SIMILAR = 0.75

_ABSENT = {"transcriptions", "translations", "chat", "completions", "embeddings", "images"}
"""Words of paths for which this service has no route."""

_PURPOSES = {
    "/tts/generate": (
        "speech is made by /tts/generate and, as OpenAI has it, by /v1/audio/speech",
        {"tts", "t2s", "text-to-speech", "text2speech", "speech", "speak", "say", "talk", "audio"}
        | {"synthesize", "synthesise", "synthesis", "synth", "generate", "infer", "inference"}
        | {"predict", "stream", "invocations"},
    ),
    "/voices": (
        "voices are listed and uploaded at /voices",
        {"speakers", "speaker", "voice", "voices", "voice-list", "upload", "clone", "cloning"}
        | {"reference_audio", "upload_reference", "upload_audio", "get_predefined_voices"},
    ),
    "/health": ("the state is at /health", {"status", "live", "liveness", "alive", "up"}),
}
"""By route: a clause about it, and words in paths of other services that do the same."""


def similar_route(path: str, routes: Collection[str]) -> str | None:
    """Return the route that `path` resembles; None if it resembles no route.

    Case and empty segments make no difference. The path of a route may have segments too many or
    too few at one end (`/v1/v1/models`, `/models`), or be misspelt.
    """
    segments = _segments(path) if len(path) <= MAX_PATH_LENGTH else []
    if not segments:
        return None
    surplus = {route: _surplus(segments, _segments(route)) for route in routes}
    if found := {route: count for route, count in surplus.items() if count is not None}:
        return min(found, key=found.__getitem__)
    spelt = {"/".join(_segments(route)): route for route in routes}
    near = difflib.get_close_matches("/".join(segments), spelt, n=1, cutoff=_SIMILAR)
    return spelt[near[0]] if near else None


def routes_of_purpose(path: str, routes: Collection[str]) -> str | None:
    """Return a clause about what this service has for a word in `path`; None if it has nothing."""
    words = set(_segments(path)) if len(path) <= MAX_PATH_LENGTH else set()
    if words & _ABSENT:
        return None
    for route, (clause, known) in _PURPOSES.items():
        if words & known and route in routes:
            return clause
    return None


def _segments(path: str) -> list[str]:
    return [segment for part in path.lower().split("/") if (segment := part.strip())]


def _surplus(segments: list[str], route: list[str]) -> int | None:
    """Return how many segments one has more, if it begins or ends with all of the other."""
    both = min(len(segments), len(route))
    starts = (-both, 0)
    if any(_match(segments[at:][:both], route[at:][:both]) for at in starts):
        return abs(len(segments) - len(route))
    return None


def _match(segments: list[str], route: list[str]) -> bool:
    """Whether all are equal, but for the route's parameters, and not only these."""
    pairs = [pair for pair in zip(segments, route, strict=True) if not pair[1].startswith("{")]
    return bool(pairs) and all(segment == own for segment, own in pairs)
