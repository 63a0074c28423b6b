import asyncio
import json
from collections.abc import Iterable
from typing import Any

import pytest
from starlette.requests import Request
from starlette.types import Message

import app.http.request_body as body_module
from app.core.errors import InvalidRequest, PayloadTooLarge, RequestTooSlow, UnsupportedMedia
from app.http.request_body import limit_body, read_json_object

MOST = 1000
TOO_LARGE = PayloadTooLarge("less, please", param="text")
JSON = "application/json"
EXAMPLE = '{"text": "Hello."}'


def request(
    pieces: Iterable[bytes], content_type: str | None = JSON, length: str | None = None
) -> Request:
    """Return a request whose body arrives in `pieces`; afterwards `receive` waits forever."""
    headers = [(b"content-type", content_type.encode())] if content_type else []
    if length is not None:
        headers.append((b"content-length", length.encode("latin-1")))
    coming = list(pieces)

    async def receive() -> Message:
        if not coming:
            return await asyncio.Event().wait()  # type: ignore[return-value]
        return {"type": "http.request", "body": coming.pop(0), "more_body": bool(coming)}

    scope = {"type": "http", "method": "POST", "headers": headers, "query_string": b""}
    return Request(scope, receive)


async def read(body: bytes, content_type: str | None = JSON) -> dict[str, Any]:
    return await read_json_object(request([body], content_type), MOST, TOO_LARGE, EXAMPLE)


async def test_reads_object_from_single_bytes() -> None:
    sent = {"text": "Grüße 🎧", "seed": 7, "stream": False, "voice_id": None}
    body = json.dumps(sent, ensure_ascii=False).encode()
    pieces = [body[index : index + 1] for index in range(len(body))]
    assert await read_json_object(request(pieces), MOST, TOO_LARGE, EXAMPLE) == sent


@pytest.mark.parametrize("content_type", [JSON, "Application/JSON; charset=utf-8"])
async def test_accepts_json_content_type(content_type: str) -> None:
    assert await read(b"{}", content_type) == {}


@pytest.mark.parametrize("content_type", [None, "", "text/plain", "application/jsonp"])
async def test_refuses_other_content_types(content_type: str | None) -> None:
    with pytest.raises(UnsupportedMedia):
        await read(b"{}", content_type)


@pytest.mark.parametrize("encoding", ["gzip", "zstd", "identity, br"])
@pytest.mark.parametrize("content_type", [JSON, "text/plain"])
async def test_refuses_encoded_body_before_reading(encoding: str, content_type: str) -> None:
    async def receive() -> Message:
        raise AssertionError("it was read")

    headers = [(b"content-type", content_type.encode())]
    headers += [(b"content-encoding", each.encode()) for each in encoding.split(", ")]
    encoded = Request({"type": "http", "method": "POST", "headers": headers}, receive)
    with pytest.raises(UnsupportedMedia, match=f"The Content-Encoding '{encoding}' is not"):
        await read_json_object(encoded, MOST, TOO_LARGE, EXAMPLE)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"{'text': 'x'}",
        b'{"text": "x"} {}',
        b'{"seed": NaN}',
        b'{"seed": -Infinity}',
        b'{"text": "\xff"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"seed": ' + b"9" * 5000 + b"}",
    ],
    ids=range(10),
)
async def test_refuses_invalid_json(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="not valid JSON") as refusal:
        await read_json_object(request([body]), 10**9, TOO_LARGE, EXAMPLE)
    assert type(refusal.value) is InvalidRequest


@pytest.mark.parametrize("body", [b"null", b"[]", b"3", b'"text"', b"true"])
async def test_refuses_json_other_than_objects(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="must be a JSON object"):
        await read(body)


@pytest.mark.parametrize("body", [b'{"seed": 1, "seed": 1}', b'{"a": {"seed": 1, "seed": 2}}'])
async def test_refuses_duplicate_keys(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="twice") as refusal:
        await read(body)
    assert refusal.value.param == "seed"


async def test_limit_is_inclusive() -> None:
    body = b'{"text":"' + b"x" * (MOST - 11) + b'"}'
    assert len(body) == MOST
    assert await read(body)
    with pytest.raises(PayloadTooLarge):
        await read(body + b" ")


async def test_refuses_declared_length_before_reading() -> None:
    with pytest.raises(PayloadTooLarge):
        limit_body(request([], length=str(MOST + 1)), MOST, TOO_LARGE)


@pytest.mark.parametrize("length", [None, "", "5", "-1", "many", "²"])
async def test_refuses_long_body_for_any_declared_length(length: str | None) -> None:
    limited = limit_body(request([b"x" * 600] * 2, length=length), MOST, TOO_LARGE)
    with pytest.raises(PayloadTooLarge, match="less, please"):
        await limited.body()


async def late(pieces: Iterable[bytes], pause_s: float) -> bytes:
    """Read a body whose pieces arrive after a pause each."""
    coming = list(pieces)

    async def receive() -> Message:
        await asyncio.sleep(pause_s)
        return {"type": "http.request", "body": coming.pop(0), "more_body": bool(coming)}

    scope = {"type": "http", "method": "POST", "headers": []}
    return await limit_body(Request(scope, receive), 10**6, TOO_LARGE).body()


async def test_body_that_does_not_arrive_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_module, "GRACE_S", 0.01)
    with pytest.raises(RequestTooSlow):
        await late([b"{}"], 60)


async def test_slow_body_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_module, "GRACE_S", 0.2)
    with pytest.raises(RequestTooSlow, match="Only 2 bytes"):
        await late([b"x"] * 100, 0.08)


async def test_body_at_the_least_rate_may_exceed_the_grace_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(body_module, "GRACE_S", 0.1)
    pieces = [b"x" * 16_384] * 10
    assert await late(pieces, 0.05) == b"".join(pieces)


async def test_received_body_does_not_time_out_if_the_server_is_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(body_module, "GRACE_S", -60)
    assert await limit_body(request([b"x", b"y"]), MOST, TOO_LARGE).body() == b"xy"
