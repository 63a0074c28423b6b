"""Content negotiation: the audio format that an `Accept` header asks for."""

from app.audio.formats import FORMATS, PCM, FormatName
from app.core.errors import NotAcceptable

MAX_ACCEPT_LENGTH = 4096
"""Of an `Accept` header; the rest is ignored."""

_BY_PREFERENCE = sorted(FORMATS.items(), key=lambda item: item[1] is PCM)  # no player opens PCM
_OFFERED: dict[str, FormatName] = {
    form.accept[0]: name for name, form in _BY_PREFERENCE if form.accept
}
_FORMATS: dict[str, FormatName] = _OFFERED | {
    media_type: name for name, form in FORMATS.items() for media_type in form.accept
}


def negotiate(accept: str) -> FormatName:
    """The supported format with the highest quality, the first of equals; `wav` by default.

    JSON, which `curl --json` asks for with every request, says nothing about audio. Raises
    `NotAcceptable` if `accept` names only media types that are not supported.
    """
    ranges = [parsed for parsed in map(_parse, accept[:MAX_ACCEPT_LENGTH].split(",")) if parsed]
    if all(media_type == "application/json" for media_type, _ in ranges):
        return "wav"
    refused = {media_type for media_type, quality in ranges if quality <= 0}
    for media_type, _ in sorted(ranges, key=lambda parsed: -parsed[1]):
        if media_type not in refused and (found := _first_match(media_type, refused)):
            return found
    raise NotAcceptable(
        f"The Accept header allows none of the types that are made here: {', '.join(_OFFERED)}. "
        f"The parameter 'format' has more: {', '.join(FORMATS)}."
    )


def _first_match(media_type: str, refused: set[str]) -> FormatName | None:
    if media_type in ("*/*", "audio/*"):
        return next((name for known, name in _FORMATS.items() if known not in refused), None)
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
