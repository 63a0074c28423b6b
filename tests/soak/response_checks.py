"""Check one response of a soak: return its outcome in a word, or raise `Violation`."""

import json
from collections.abc import Collection

from app.core.errors import PoisonRequest, QueueFull, ServiceError, VoiceNotFound, from_code
from tests.support.http_client import Response


class Violation(Exception):
    """The service broke an invariant or its contract; the message says how."""


def check_speech(
    response: Response, files: Collection[bytes], *, kills: int = 0, voice_may_be_gone: bool = False
) -> str:
    """Check a generation that may be any of `files`; `kills`: workers killed during it.

    Returns `whole`; `cut` or `poisoned` after kills; `busy` for a full queue; `gone` for a deleted
    voice.
    """
    if response.status == 200:
        return _check_audio(response, files, kills)
    allowed: list[type[ServiceError]] = [QueueFull]
    if voice_may_be_gone:
        allowed.append(VoiceNotFound)
    if kills >= 2:
        allowed.append(PoisonRequest)
    check_error(response, *allowed)
    return {429: "busy", 404: "gone", 500: "poisoned"}[response.status]


def check_error(response: Response, *allowed: type[ServiceError]) -> str:
    """Check that the response is one of these errors, in the service's error shape."""
    found = _parse_error(response)
    if type(found) not in allowed:
        expected = " or ".join(error.code for error in allowed)
        raise Violation(f"{response.status} {found.code} in place of {expected}: {found.message}")
    return "refused"


def check_success(response: Response, status: int) -> str:
    if response.status != status or not response.complete:
        raise Violation(f"{_describe(response)} in place of {status}")
    return "served"


def _check_audio(response: Response, files: Collection[bytes], kills: int) -> str:
    if not any(file.startswith(response.body) for file in files):
        raise Violation(f"{_describe(response)} is not the audio of this text, seed and voice")
    if response.complete:
        if response.body not in files:
            raise Violation(f"{_describe(response)} is only a part, with a clean end")
        return "whole"
    if not kills:
        raise Violation(f"{_describe(response)} was cut off, though no worker was killed")
    return "cut"


def _parse_error(response: Response) -> ServiceError:
    """Return the error in the body, after checking shape, status and Retry-After."""
    if not response.complete:
        raise Violation(f"{_describe(response)} was cut off")
    try:
        body = json.loads(response.body)["error"]
        error = from_code(body["code"], body["message"])
        shape = {"message": str(body["message"]), "type": error.type, "code": error.code}
        valid = body == shape | {"param": body["param"]}
    except (ValueError, TypeError, LookupError):
        valid = False
    if not valid or error.status != response.status:
        raise Violation(f"{_describe(response)} is no error in the service's shape")
    if error.retry_after_s is not None and not response.headers.get("retry-after", "").isdecimal():
        raise Violation(f"{_describe(response)} has no Retry-After")
    return error


def _describe(response: Response) -> str:
    kind = response.headers.get("content-type", "no type")
    shown = f" {response.body[:200]!r}" if response.status != 200 else ""
    return f"{response.status} with {len(response.body)} bytes of {kind}{shown}"
