"""Reading request bodies that may be too long, too slow, or not what they say."""

import asyncio
import json
from typing import Any, NoReturn

from starlette.requests import Request
from starlette.types import Message

from app.errors import InvalidRequest, PayloadTooLarge, RequestTooSlow, UnsupportedMedia

BODY_S = 30.0
"""A body of JSON must be there within this time, in seconds."""


def media_type(request: Request) -> str:
    """Of the body, in lower case and without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def limit_body(request: Request, most_bytes: int) -> Request:
    """The request, made to raise `PayloadTooLarge` once its body is longer than `most_bytes`."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > most_bytes:
        raise PayloadTooLarge(f"the body has more than {most_bytes} bytes")
    received = 0
    receive = request.receive

    async def counted() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > most_bytes:
            raise PayloadTooLarge(f"the body has more than {most_bytes} bytes")
        return message

    return Request(request.scope, counted)


async def read_json_object(request: Request, most_bytes: int) -> dict[str, Any]:
    """The JSON object in the body; stricter than `json`, and never a RecursionError."""
    if media_type(request) != "application/json":
        raise UnsupportedMedia("the Content-Type must be application/json")
    try:
        body = await asyncio.wait_for(limit_body(request, most_bytes).body(), BODY_S)
    except TimeoutError:
        raise RequestTooSlow(f"the body was not there within {BODY_S:g} s") from None
    try:
        value = json.loads(body, object_pairs_hook=_without_duplicates, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        message = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InvalidRequest(f"the body is not valid JSON: {message}") from None
    if not isinstance(value, dict):
        raise InvalidRequest("the body must be a JSON object")
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise InvalidRequest(f"{name!r} is given twice", param=name)
        found[name] = value
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
