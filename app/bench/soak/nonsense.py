"""Requests that are to be refused, and bytes that are no request at all."""

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
"""The limits that the service is started with."""


class Refused(NamedTuple):
    """A request, the rest of it as `httpx` takes it, and what it is refused with."""

    method: str
    path: str
    options: dict[str, Any]
    error: type[ServiceError]


def _get(error: type[ServiceError], **values: object) -> Refused:
    return Refused("GET", "/tts/generate", {"params": {"text": "a word"} | values}, error)


def _post(error: type[ServiceError], path: str = "/tts/generate", **options: Any) -> Refused:
    return Refused("POST", path, options, error)


def _not_json(content: bytes) -> Refused:
    headers = {"Content-Type": "application/json"}
    return _post(InvalidRequest, content=content, headers=headers)


def _upload(error: type[ServiceError], name: str, content: bytes) -> Refused:
    return _post(error, "/voices", files={"file": (name, content)})


WRONG = (
    Refused("GET", "/voices", {"headers": {"X-API-Key": "wrong"}}, Unauthenticated),
    Refused("GET", "/nowhere", {}, NotFound),
    Refused("PUT", "/voices", {}, MethodNotAllowed),
    Refused("DELETE", "/voices/never.wav", {}, VoiceNotFound),
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

TOO_MUCH = (
    _post(TextTooLong, json={"text": "a" * (MAX_TEXT_LENGTH + 1)}),
    _post(PayloadTooLarge, json={"text": "a" * (20 * MAX_TEXT_LENGTH)}),
    _upload(PayloadTooLarge, "large.wav", bytes(MAX_UPLOAD_MB * 1_200_000)),
)

NO_HTTP = (
    b"HELO example\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200)),
    b"GET /voices?\xc3\xa4 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /voices HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
    b"POST /voices HTTP/1.1\r\nHost: a\r\nContent-Length: many\r\n\r\n",
)
"""Each is answered 400 `invalid_request`, and the connection closed."""

NOT_ALL = (
    b"",
    b"GET /voices HTTP/1.1\r\nHost:",
    b"POST /tts/generate HTTP/1.1\r\nHost: a\r\nContent-Length: 9000\r\n\r\n{",
    b"POST /voices HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
)
"""After which the client hangs up."""
