"""The API key at ASGI level. `tests/contract/test_auth.py` checks it on every HTTP route."""

import json
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from app.http.access_log import AccessLogMiddleware
from app.http.auth import OPEN_PATHS, ApiKeyMiddleware
from app.observability.metrics import Metrics

KEY = "the-key"
DENIAL_RESPONSE = {"extensions": {"websocket.http.response": {}}}

WITH_KEY = [
    {"headers": [(b"x-api-key", b"the-key")]},
    {"headers": [(b"authorization", b"Bearer the-key")]},
    {"query_string": b"a=1&api_key=the-key"},
]
WITHOUT_KEY = [
    {},
    {"headers": [(b"x-api-key", b"the-kex")]},
    {"headers": [(b"authorization", b"Basic the-key")]},
    {"headers": [(b"sec-websocket-protocol", b"the-key")]},
    {"query_string": b"api_key="},
    {"path": "/health"},
]


def scope(kind: str, **values: Any) -> Scope:
    return {
        "type": kind,
        "path": "/stream",
        "headers": [],
        "query_string": b"",
        "client": ("127.0.0.1", 1),
    } | values


class App:
    """Accepts a WebSocket, as a route would."""

    called = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.called = True
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})


async def connect(connection: Scope) -> tuple[App, list[Message]]:
    """Return the app and the messages sent, through the access log and the key check."""
    app = App()
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": f"{connection['type']}.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    checked = ApiKeyMiddleware(app, KEY, OPEN_PATHS)
    await AccessLogMiddleware(checked, Metrics(), debug=False)(connection, receive, send)
    return app, sent


@pytest.mark.covers("default-deny routing")
@pytest.mark.parametrize("given", WITH_KEY)
async def test_accepts_websocket_with_key(given: dict[str, Any]) -> None:
    app, sent = await connect(scope("websocket", **given))
    assert app.called
    assert sent == [{"type": "websocket.accept"}]


@pytest.mark.covers("default-deny routing")
@pytest.mark.parametrize("given", WITHOUT_KEY)
async def test_closes_websocket_without_key_before_accepting(given: dict[str, Any]) -> None:
    app, sent = await connect(scope("websocket", **given))
    assert not app.called
    assert sent == [{"type": "websocket.close", "code": 1008, "reason": ""}]


@pytest.mark.covers("default-deny routing")
@pytest.mark.parametrize("given", WITHOUT_KEY)
async def test_responds_401_to_websocket_without_key_if_server_can(given: dict[str, Any]) -> None:
    app, sent = await connect(scope("websocket", **given, **DENIAL_RESPONSE))
    assert not app.called
    start, body = sent
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 401)
    assert (b"www-authenticate", b"Bearer") in start["headers"]
    assert body["type"] == "websocket.http.response.body"
    assert json.loads(body["body"])["error"]["code"] == "invalid_api_key"


@pytest.mark.covers("default-deny routing")
async def test_refuses_unknown_kinds_of_connections() -> None:
    for given in ({}, *WITH_KEY):
        with pytest.raises(ValueError, match="'webtransport' connections are not supported"):
            await connect(scope("webtransport", **given))


async def test_lifespan_needs_no_key() -> None:
    app, _ = await connect({"type": "lifespan"})
    assert app.called


@pytest.mark.parametrize(
    ("given", "outcome"),
    [
        (WITH_KEY[0], "closed"),
        ({}, "invalid_api_key"),
        (DENIAL_RESPONSE, "invalid_api_key"),
    ],
)
async def test_logs_websockets(
    given: dict[str, Any], outcome: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    connection = scope("websocket", **given)
    connection["headers"] = [*connection["headers"], (b"x-request-id", b"request-1")]
    await connect(connection)
    [line] = caplog.messages
    assert line.startswith(f"request-1 WEBSOCKET /stream - {outcome} ")
    assert line.endswith(" s from 127.0.0.1")
