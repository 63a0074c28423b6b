"""Requests that the service must refuse, and bytes that are not HTTP."""

from typing import Any, NamedTuple

from app.core.errors import (
    EmptyText,
    InvalidRequest,
    InvalidVoiceId,
    MethodNotAllowed,
    NotAcceptable,
    NotFound,
    PayloadTooLarge,
    ServiceError,
    TextTooLong,
    Unauthenticated,
    UnsupportedMedia,
    UnusableAudio,
    VoiceNotFound,
)

MAX_TEXT_LENGTH = 20_000
MAX_UPLOAD_MB = 1
"""The limits of the soak's service."""


class InvalidCase(NamedTuple):
    """A request, its `httpx` options, and the expected error."""

    method: str
    path: str
    options: dict[str, Any]
    error: type[ServiceError]


def _get(error: type[ServiceError], **values: object) -> InvalidCase:
    return InvalidCase("GET", "/tts/generate", {"params": {"text": "a word"} | values}, error)


def _post(error: type[ServiceError], path: str = "/tts/generate", **options: Any) -> InvalidCase:
    return InvalidCase("POST", path, options, error)


def _not_json(content: bytes) -> InvalidCase:
    headers = {"Content-Type": "application/json"}
    return _post(InvalidRequest, content=content, headers=headers)


def _upload(error: type[ServiceError], name: str, content: bytes) -> InvalidCase:
    return _post(error, "/voices", files={"file": (name, content)})


INVALID_REQUESTS = (
    InvalidCase("GET", "/voices", {"headers": {"X-API-Key": "wrong"}}, Unauthenticated),
    InvalidCase("GET", "/nowhere", {}, NotFound),
    InvalidCase("PUT", "/voices", {}, MethodNotAllowed),
    InvalidCase("DELETE", "/voices/never.wav", {}, VoiceNotFound),
    _get(VoiceNotFound, voice_id="never.wav"),
    _get(InvalidRequest, format="midi"),
    _get(InvalidRequest, volume=11),
    _get(InvalidRequest, seed="nan"),
    _post(NotAcceptable, json={"text": "a word"}, headers={"Accept": "image/png"}),
    _post(EmptyText, json={"text": " … "}),
    _post(InvalidRequest, json=["a word"]),
    _post(UnsupportedMedia, content=b"text=a+word"),
    _not_json(b'{"text": "cut '),
    _not_json(b"[" * 9_000),
    _not_json(b"\xff\xfe\0"),
    _post(UnsupportedMedia, "/voices", json={}),
    _upload(InvalidVoiceId, ".hidden.wav", b"RIFF"),
    _upload(UnusableAudio, "text.wav", b"no sound at all"),
)

OVERSIZED_REQUESTS = (
    _post(TextTooLong, json={"text": "a" * (MAX_TEXT_LENGTH + 1)}),
    _post(PayloadTooLarge, json={"text": "a" * (20 * MAX_TEXT_LENGTH)}),
    _upload(PayloadTooLarge, "large.wav", bytes(MAX_UPLOAD_MB * 1_200_000)),
)

MALFORMED_HTTP = (
    b"HELO example\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200)),
    b"GET /voices?\xc3\xa4 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /voices HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
    b"POST /voices HTTP/1.1\r\nHost: a\r\nContent-Length: many\r\n\r\n",
)
"""Each gets 400 `invalid_request`, and its connection is closed."""

INCOMPLETE_HTTP = (
    b"",
    b"GET /voices HTTP/1.1\r\nHost:",
    b"POST /tts/generate HTTP/1.1\r\nHost: a\r\nContent-Length: 9000\r\n\r\n{",
    b"POST /voices HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
)
"""Sent before the client closes the connection."""
