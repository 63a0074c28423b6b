"""Choose the audio format by the `Accept` header (RFC 9110, 12.5.1)."""

from app.core.errors import NotAcceptable
from app.speech.options import FormatName

_MEDIA_TYPES: dict[str, FormatName] = {
    "audio/wav": "wav",
    "audio/mpeg": "mp3",
    "audio/mp4": "fmp4",
    "audio/webm": "webm",
    "audio/pcm": "raw_pcm",
}
_FORMATS: dict[str, FormatName] = _MEDIA_TYPES | {
    "audio/x-wav": "wav",
    "audio/wave": "wav",
    "audio/mp3": "mp3",
}


def negotiate(accept: str) -> FormatName:
    """Return the supported format of the highest quality, the first of equals; by default wav.

    Raises `NotAcceptable` if no listed type is supported.
    """
    ranges = [each for each in map(_parse, accept.split(",")) if each]
    if not ranges:
        return "wav"
    refused = {media_type for media_type, quality in ranges if quality <= 0}
    for media_type, _ in sorted(ranges, key=lambda each: -each[1]):
        if media_type not in refused and (name := _first_of(media_type, refused)):
            return name
    raise NotAcceptable(
        f"The Accept header allows none of the types that are made here: {', '.join(_MEDIA_TYPES)}."
    )


def _first_of(media_type: str, refused: set[str]) -> FormatName | None:
    """Return the format of a media type, or the first that a wildcard allows."""
    if media_type in ("*/*", "audio/*"):
        return next((_FORMATS[each] for each in _FORMATS if each not in refused), None)
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
