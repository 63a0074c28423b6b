"""Read request bodies with limits on length and time, and strict JSON."""

import asyncio
import json
from collections.abc import Coroutine
from typing import Any, NoReturn, TypeVar

from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from app.core.errors import InvalidRequest, PayloadTooLarge, RequestTooSlow, UnsupportedMedia
from app.core.running_time import running_time, timeout
from app.core.validation import shortened
from app.http.json_hints import json_hint, not_utf8

T = TypeVar("T")

GRACE_S = 10.0
SLOWEST_BYTES_PER_S = 16_384
"""After `GRACE_S`, a body must have arrived at this average rate."""

MAX_NAMES = 100
"""In one JSON object."""

MAX_CONTENT_TYPE_LENGTH = 1000

PIECE_BYTES = 32_768
"""A body is read in pieces of at most this length, between which other requests have their turn."""


def ensure_media_type(request: Request, expected: str, how: str) -> None:
    """Raise `UnsupportedMedia` if the body has another type, or a Content-Encoding.

    `how`: a command that sends `expected`, for the message. Raises `InvalidRequest` if it is in
    another charset than UTF-8, some of which take quadratic time to decode.
    """
    _ensure_not_encoded(request)
    header = request.headers.get("content-type", "")
    if len(header) > MAX_CONTENT_TYPE_LENGTH:
        raise InvalidRequest(
            f"The Content-Type may have at most {MAX_CONTENT_TYPE_LENGTH} characters."
        )
    media_type, parameters = parse_options_header(header)
    if media_type.strip() != expected.encode():
        came = (
            f"as {shortened(media_type.decode('latin-1'))}" if header else "without a Content-Type"
        )
        hint = _misplaced(request)
        raise UnsupportedMedia(f"{hint}The body came {came}; send {expected}, as {how} does.")
    if parameters.get(b"charset", b"utf-8").lower() not in (b"utf-8", b"utf8"):
        raise InvalidRequest("The charset of the body must be UTF-8.")


def _misplaced(request: Request) -> str:
    """A sentence about parameters in the query of a request without a body; empty if none are."""
    sent = request.headers.get("content-length", "0"), request.headers.get("transfer-encoding")
    names = [name for name in request.query_params if name != "api_key"]
    if sent != ("0", None) or not names:
        return ""
    return f"In the query {shortened(names[0])!r} is not read: parameters go into a JSON body. "


def _ensure_not_encoded(request: Request) -> None:
    encoding = ", ".join(request.headers.getlist("content-encoding"))
    if any(coding.strip().lower() not in ("", "identity") for coding in encoding.split(",")):
        raise UnsupportedMedia(
            f"The Content-Encoding {shortened(encoding)!r} is not supported: send the body "
            "without it, not compressed."
        )


async def run_while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Await `work`, or cancel it and raise `ClientDisconnect` if the client leaves.

    To be called when the body has been read.
    """

    async def disconnected() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(disconnected())
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.wait((working, leaving))
    if working.cancelled():
        raise ClientDisconnect
    return working.result()


def limit_body(request: Request, max_bytes: int, too_large: PayloadTooLarge) -> Request:
    """Return a request whose body can be read with limits.

    Raises `too_large`, at once if the declared length exceeds `max_bytes`, else while the body is
    read; raises `RequestTooSlow` if the body arrives too slowly.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise too_large
    started_at, received = running_time(), 0
    receive = request.receive
    pieces: list[Message] = []  # of the last message, in reverse order

    async def receive_piece() -> Message:
        if pieces:
            await asyncio.sleep(0)
        else:
            pieces.extend(_pieces(await receive_limited()))
        return pieces.pop()

    async def receive_limited() -> Message:
        nonlocal received
        due_s = started_at + GRACE_S + received / SLOWEST_BYTES_PER_S - running_time()
        try:
            async with timeout(due_s):
                message = await receive()
        except TimeoutError:
            raise RequestTooSlow(f"Only {received} bytes of the body came in time.") from None
        received += len(message.get("body", b""))
        if received > max_bytes:
            raise too_large
        return message

    return Request(request.scope, receive_piece)


def _pieces(message: Message) -> list[Message]:
    """Split a long piece of a body; the last part comes first."""
    body = message.get("body", b"")
    if len(body) <= PIECE_BYTES:
        return [message]
    parts: list[Message] = [
        {**message, "body": body[start : start + PIECE_BYTES], "more_body": True}
        for start in range(0, len(body), PIECE_BYTES)
    ]
    parts[-1]["more_body"] = message.get("more_body", False)
    return parts[::-1]


async def read_json_object(
    request: Request, max_bytes: int, too_large: PayloadTooLarge, example: str
) -> dict[str, Any]:
    """Read a JSON object; refuse duplicate keys, NaN, Infinity and nesting beyond recursion.

    `example`: one that the route takes, for messages.
    """
    ensure_media_type(request, "application/json", f"curl --json '{example}'")
    body = await limit_body(request, max_bytes, too_large).body()
    try:
        value = json.loads(
            body, object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant
        )
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"The body is not valid JSON: {not_utf8(error)}.") from None
    except (ValueError, RecursionError) as error:
        message = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        hint = json_hint(body, example)
        raise InvalidRequest(
            f"{_misplaced(request)}The body is not valid JSON: {message}.{hint}"
        ) from None
    if not isinstance(value, dict):
        twice = isinstance(value, str) and value.lstrip().startswith("{")
        hint = " It is one in quotes: it was converted to JSON twice." if twice else ""
        raise InvalidRequest(f"The body must be a JSON object.{hint}")
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MAX_NAMES:
        raise InvalidRequest(f"A JSON object may have at most {MAX_NAMES} names.")
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            name = shortened(name)
            raise InvalidRequest(f"{name!r} is given twice.", param=name)
        values[name] = value
    return values


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
