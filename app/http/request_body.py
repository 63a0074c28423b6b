"""Reading request bodies that may be too long, too slow, or not what they say."""

import asyncio
import json
from time import monotonic
from typing import Any, NoReturn

from starlette.requests import Request
from starlette.types import Message

from app.core.errors import InvalidRequest, PayloadTooLarge, RequestTooSlow, UnsupportedMedia
from app.http.headers import header

GRACE_S = 10.0
SLOWEST_BYTES_PER_S = 16_384
"""After the time of grace, a body must have come at this rate on average."""


def media_type(request: Request) -> str:
    """Of the body, in lower case and without parameters."""
    return header(request.scope, b"content-type").partition(";")[0].strip().lower()


def limit_body(request: Request, most_bytes: int, too_large: PayloadTooLarge) -> Request:
    """The request, made to raise while its body is read.

    `too_large` once it is longer than `most_bytes`, `RequestTooSlow` once it is late.
    """
    declared = header(request.scope, b"content-length")
    if declared.isdecimal() and int(declared) > most_bytes:
        raise too_large
    began, received = monotonic(), 0
    receive = request.receive

    async def counted() -> Message:
        nonlocal received
        due_s = began + GRACE_S + received / SLOWEST_BYTES_PER_S - monotonic()
        try:
            async with asyncio.timeout(due_s):
                message = await receive()
        except TimeoutError:
            raise RequestTooSlow(f"Only {received} bytes of the body came in time.") from None
        received += len(message.get("body", b""))
        if received > most_bytes:
            raise too_large
        return message

    return Request(request.scope, counted)


async def read_json_object(
    request: Request, most_bytes: int, too_large: PayloadTooLarge
) -> dict[str, Any]:
    """The JSON object in the body; stricter than `json`, and never a RecursionError."""
    if media_type(request) != "application/json":
        raise UnsupportedMedia("The Content-Type must be application/json.")
    body = await limit_body(request, most_bytes, too_large).body()
    try:
        value = json.loads(body, object_pairs_hook=_without_duplicates, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        message = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InvalidRequest(f"The body is not valid JSON: {message}.") from None
    if not isinstance(value, dict):
        raise InvalidRequest("The body must be a JSON object.")
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise InvalidRequest(f"{name!r} is given twice.", param=name)
        found[name] = value
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
