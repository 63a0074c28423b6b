"""Every function that sees a client's bytes takes time in proportion to their number.

The inputs are made to hurt: runs of combining marks of two classes, which are sorted, boundaries
that almost match, many or long names, and whatever an algorithm of the standard library might be
slow at. `tests/server` has the functions that are called before a route, `tests/text/test_chunking`
those of workers.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from time import thread_time
from typing import Any

import pytest
from starlette.datastructures import Headers, QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message

from app.core.errors import PayloadTooLarge, ServiceError
from app.core.params import DEFAULTS
from app.core.unicode import nfc
from app.http.cors import CorsMiddleware
from app.http.error_handlers import ErrorResponse
from app.http.form import read_form as read_form_of
from app.http.form import with_plain_name
from app.http.request_body import ensure_media_type, limit_body, read_json_object
from app.http.route_hints import similar_route
from app.protocols.native.negotiation import negotiate
from app.protocols.native.schemas import from_json, from_query
from app.protocols.openai.schemas import from_openai_json
from app.speech.options import query_value
from app.speech.voice_resolver import resolve_voice
from app.text.cleaning import clean
from app.voices.library import VoiceLibrary
from app.voices.names import casefold_key, decode_file_name, validate_voice_id
from app.voices.snapshot import VoiceSnapshot

SHORT, LONG = 10_000, 40_000
MOST_S = 0.2
"""For `LONG` characters; measured: 0.1 s at most, and seconds if time is quadratic."""

LEAST_S = 0.01
"""Shorter times are noise."""

TOO_LARGE = PayloadTooLarge("less, please")
BOUNDARY = "its-boundary"


def marks(length: int) -> str:
    """Return marks of two combining classes in the wrong order."""
    return "a" + "\u0301" * (length // 2) + "\u0316" * (length // 2)


def repeated(unit: str, before: str = "", after: str = "") -> Callable[[int], str]:
    return lambda length: before + unit * (length // len(unit)) + after


TEXTS: dict[str, Callable[[int], str]] = {
    "marks": marks,
    "marks after letters": repeated("a" + "\u0316\u0301" * 20),
    "marks in pairs": repeated("\u0344"),
    "half syllables": repeated("\u1112"),
    "joiners": repeated("\u06cc\u200c"),
    "blank": repeated(" ", "a", "a"),
    "lines": repeated("\n\n", "a", "a"),
    "quotes": repeated("\"'"),
    "brackets": repeated("(["),
    "dots": repeated("."),
    "dashes": repeated(" - "),
    "backslashes": repeated("\\"),
    "separators": repeated(";,="),
    "encoded": repeated("=?utf-8?q?%41&#65;"),
    "extended": repeated("; filename*="),
    "digits": repeated("9"),
    "emoji": repeated("\U0001f469\u200d"),
    "emphasis": repeated("*a **_b "),
    "stars": repeated("*", "a", "b"),
    "code": repeated("``a"),
    "fences": repeated("```\n"),
    "links": repeated('[a](b "'),
    "tags": repeated("<a b='"),
    "comments": repeated("<!--"),
    "entities": repeated("&#38"),
    "tables": repeated("|-\n|a"),
    "headings": repeated("# # "),
    "items": repeated("- \n"),
    "citations": repeated("【a†"),
    "nested links": repeated("[a[b]"),
    "products": repeated("*1 * 1 "),
    "thoughts": repeated("<think>"),
    "commands": repeated(r"\frac{\pi"),
    "scripts": repeated("a^{_{"),
}


def library() -> VoiceLibrary:
    found: Any = VoiceLibrary.__new__(VoiceLibrary)
    found.scanner = type("Scanner", (), {"snapshot": VoiceSnapshot(), "is_unread": bool})
    return found


def request(body: Iterable[bytes], content_type: str) -> Request:
    pieces = iter(body)

    async def receive() -> Message:
        piece = next(pieces, None)
        return {"type": "http.request", "body": piece or b"", "more_body": piece is not None}

    headers = [(b"content-type", content_type.encode("utf-8", "replace"))]
    return Request(
        {"type": "http", "method": "POST", "headers": headers, "query_string": b""}, receive
    )


def encoded(encoding: str) -> Request:
    headers = [(b"content-encoding", encoding.encode("utf-8", "replace"))]
    return Request({"type": "http", "method": "POST", "headers": headers, "query_string": b""})


CORS = CorsMiddleware(lambda *message: asyncio.sleep(0), ["https://mine.example"])


def preflight(text: str) -> Headers:
    named = ("origin", "access-control-request-method", "access-control-request-headers")
    return Headers(raw=[(name.encode(), text.encode("utf-8", "replace")) for name in named])


def run(work: Awaitable[Any]) -> None:
    async def awaited() -> None:
        await work

    asyncio.run(awaited())


def read_json(body: bytes) -> None:
    run(read_json_object(request([body], "application/json"), 10**9, TOO_LARGE, "{}"))


def read_form(body: bytes) -> None:
    async def read() -> None:
        kind = f"multipart/form-data; boundary={BOUNDARY}"
        async with read_form_of(limit_body(request([body], kind), 10**9, TOO_LARGE)):
            pass

    run(read())


def error_of(text: str) -> None:
    ErrorResponse(library().not_found(text, alias=text[:100]))


OF_TEXT: dict[str, Callable[[str], object]] = {
    "nfc": nfc,
    "clean": clean,
    "clean, markup": partial(clean, markup=True),
    "validate_voice_id": validate_voice_id,
    "decode_file_name": lambda text: decode_file_name("%&#=?" + text),
    "with_plain_name": lambda text: with_plain_name(text.encode("utf-8", "replace")),
    "casefold_key": casefold_key,
    "find": VoiceSnapshot().find,
    "resolve_voice": lambda text: resolve_voice(text, library(), {}),
    "not_found": error_of,
    "negotiate": negotiate,
    "ensure_media_type": lambda text: ensure_media_type(
        request([], text), "multipart/form-data", ""
    ),
    "encoded body": lambda text: ensure_media_type(encoded(text), "application/json", ""),
    "similar_route": lambda text: similar_route(text, ["/tts/generate", "/voices/{voice_id}"]),
    "preflight": lambda text: CORS.preflight_response(preflight(text)),
    "from_json": lambda text: from_json({"text": text, "voice_id": text, "format": text}),
    "unknown name": lambda text: from_json({text: text}),
    "from_openai_json": lambda text: from_openai_json({"input": text, "voice": {"id": text}}),
    "from_query": lambda text: from_query(QueryParams({"text": text, text: text})),
    "query_value": lambda text: query_value("seed", text),
    "read_json_object": lambda text: read_json(json.dumps({"text": text}).encode()),
    "read_json_object, raw": lambda text: read_json(text.encode()),
}


def names(length: int) -> dict[str, int]:
    return {f"n{number}": number for number in range(length // 10)}


def part(head: bytes, content: bytes = b"") -> bytes:
    return b"--%b\r\n%b\r\n\r\n%b\r\n" % (BOUNDARY.encode(), head, content)


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--%b--\r\n" % BOUNDARY.encode()


DISPOSITION = b'Content-Disposition: form-data; name="file"; filename="v.wav"'

OTHERS: dict[str, Callable[[int], Callable[[], object]]] = {
    "many names": lambda n: lambda: read_json(json.dumps(names(n)).encode()),
    "many objects": lambda n: lambda: read_json(b"[" + b"{}," * (n // 3) + b"{}]"),
    "deep lists": lambda n: lambda: read_json(b"[" * n),
    "deep objects": lambda n: lambda: read_json(b'{"a":' * (n // 5)),
    "one name twice": lambda n: lambda: read_json(b'{"%b":1,"%b":2}' % (b"a" * n, b"a" * n)),
    "long number": lambda n: lambda: read_json(b'{"seed":' + b"9" * n + b"}"),
    "long fraction": lambda n: lambda: read_json(b'{"top_p":0.' + b"9" * n + b"}"),
    "many in a query": lambda n: lambda: from_query(QueryParams(names(n))),
    "near boundaries": lambda n: (
        lambda: read_form(form(part(DISPOSITION, b"\r\n--its-boundarx" * (n // 16))))
    ),
    "line breaks": lambda n: lambda: read_form(form(part(DISPOSITION, b"\r\n" * (n // 2)))),
    "many parts": lambda n: lambda: read_form(part(b'A: form-data; name="a"') * (n // 40)),
    "many headers": lambda n: lambda: read_form(part(b"A: b\r\n" * (n // 6))),
    "long header": lambda n: lambda: read_form(part(DISPOSITION + b'; a="' + b";" * n)),
    "long field": lambda n: lambda: read_form(part(DISPOSITION[:43], b"a" * n)),
}


def seconds(work: Callable[[], object]) -> float:
    """Return the CPU time of the work, which may refuse its input."""
    began = thread_time()
    with suppress(ServiceError, HTTPException):
        work()
    return thread_time() - began


def check_linear(work: Callable[[int], Callable[[], object]]) -> None:
    short = min(seconds(work(SHORT)) for _ in range(2))
    long = min(seconds(work(LONG)) for _ in range(2))
    print(f"{1000 * short:.1f} ms for {SHORT}, {1000 * long:.1f} ms for {LONG}")
    assert long < MOST_S
    assert long < 2 * LONG / SHORT * max(short, LEAST_S)


@pytest.mark.fault(95)
@pytest.mark.parametrize("name", OF_TEXT)
def test_time_for_a_text_is_linear(name: str) -> None:
    for kind, text_of in TEXTS.items():
        print(end=f"{kind}: ")
        check_linear(lambda length, text_of=text_of: lambda: OF_TEXT[name](text_of(length)))  # type: ignore[misc]


@pytest.mark.fault(95)
@pytest.mark.parametrize("name", OTHERS)
def test_time_for_a_body_is_linear(name: str) -> None:
    check_linear(OTHERS[name])


@pytest.mark.fault(95)
def test_combining_marks_of_a_whole_text_take_milliseconds() -> None:
    assert DEFAULTS  # loaded before the clock starts
    assert min(seconds(lambda: clean(marks(18_000))) for _ in range(3)) < 0.02
