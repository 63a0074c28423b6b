"""Which audio format an `Accept` header asks for."""

from app.core.errors import NotAcceptable
from app.speech.options import FormatName

_MADE: dict[str, FormatName] = {
    "audio/wav": "wav",
    "audio/mpeg": "mp3",
    "audio/mp4": "fmp4",
    "audio/webm": "webm",
    "audio/pcm": "raw_pcm",
}
_FORMATS: dict[str, FormatName] = _MADE | {
    "audio/x-wav": "wav",
    "audio/wave": "wav",
    "audio/mp3": "mp3",
}


def negotiate(accept: str) -> FormatName:
    """The supported type that the client likes best, the first of equals; nothing asked → wav.

    Raises `NotAcceptable` if every type it names is one that this service does not make.
    """
    wishes = [wish for wish in map(_parse, accept.split(",")) if wish]
    if not wishes:
        return "wav"
    refused = {media_type for media_type, quality in wishes if quality <= 0}
    for media_type, _ in sorted(wishes, key=lambda wish: -wish[1]):
        if media_type not in refused and (found := _first_of(media_type, refused)):
            return found
    raise NotAcceptable(
        f"The Accept header allows none of the types that are made here: {', '.join(_MADE)}."
    )


def _first_of(media_type: str, refused: set[str]) -> FormatName | None:
    """The format of a type, or the first that a wildcard leaves open."""
    if media_type in ("*/*", "audio/*"):
        return next((_FORMATS[known] for known in _FORMATS if known not in refused), None)
    return _FORMATS.get(media_type)


def _parse(item: str) -> tuple[str, float] | None:
    media_type, *parameters = (part.strip().lower() for part in item.split(";"))
    quality = 1.0
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                quality = float(value)
            except ValueError:
                quality = 0.0
    return (media_type, quality) if media_type else None
