"""Read request bodies with limits on length and time, and strict JSON."""

import asyncio
import json
from time import monotonic
from typing import Any, NoReturn

from starlette.requests import Request
from starlette.types import Message

from app.core.errors import InvalidRequest, PayloadTooLarge, RequestTooSlow, UnsupportedMedia

GRACE_S = 10.0
SLOWEST_BYTES_PER_S = 16_384
"""After `GRACE_S`, a body must have arrived at this average rate."""


def media_type(request: Request) -> str:
    """Return the body's media type in lower case, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def limit_body(request: Request, max_bytes: int, too_large: PayloadTooLarge) -> Request:
    """Return a request whose body can be read with limits.

    Raises `too_large`, at once if the declared length exceeds `max_bytes`, else while the body is
    read; raises `RequestTooSlow` if the body arrives too slowly.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise too_large
    started_at, received = monotonic(), 0
    receive = request.receive

    async def receive_limited() -> Message:
        nonlocal received
        due_s = started_at + GRACE_S + received / SLOWEST_BYTES_PER_S - monotonic()
        try:
            async with asyncio.timeout(due_s):
                message = await receive()
        except TimeoutError:
            raise RequestTooSlow(f"Only {received} bytes of the body came in time.") from None
        received += len(message.get("body", b""))
        if received > max_bytes:
            raise too_large
        return message

    return Request(request.scope, receive_limited)


async def read_json_object(
    request: Request, max_bytes: int, too_large: PayloadTooLarge
) -> dict[str, Any]:
    """Read a JSON object; refuse duplicate keys, NaN, Infinity and nesting beyond recursion."""
    if media_type(request) != "application/json":
        raise UnsupportedMedia("The Content-Type must be application/json.")
    body = await limit_body(request, max_bytes, too_large).body()
    try:
        value = json.loads(
            body, object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError) as error:
        message = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InvalidRequest(f"The body is not valid JSON: {message}.") from None
    if not isinstance(value, dict):
        raise InvalidRequest("The body must be a JSON object.")
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise InvalidRequest(f"{name!r} is given twice.", param=name)
        values[name] = value
    return values


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
