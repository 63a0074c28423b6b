"""The API key and connections that are no HTTP requests; `tests/contract` has the routes."""

from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from app.http.access_log import AccessLogMiddleware
from app.http.auth import OPEN_PATHS, ApiKeyMiddleware
from app.observability.metrics import Metrics

KEY = "the-key"

WITH_KEY = [
    {"headers": [(b"x-api-key", b"the-key")]},
    {"headers": [(b"authorization", b"Bearer the-key")]},
    {"query_string": b"a=1&api_key=the-key"},
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
    called = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.called = True


async def connect(connection: Scope) -> App:
    """Return the app, behind the access log and the key check."""
    app = App()

    async def receive() -> Message:
        return {"type": f"{connection['type']}.connect"}

    async def send(message: Message) -> None:
        raise AssertionError(message)

    checked = ApiKeyMiddleware(app, KEY, OPEN_PATHS)
    await AccessLogMiddleware(checked, Metrics(), debug=False)(connection, receive, send)
    return app


@pytest.mark.covers("default-deny routing")
@pytest.mark.parametrize("kind", ["websocket", "webtransport"])
async def test_refuses_other_kinds_of_connections(kind: str) -> None:
    for given in ({}, *WITH_KEY):
        with pytest.raises(ValueError, match=f"'{kind}' connections are not supported"):
            await connect(scope(kind, **given))


async def test_lifespan_needs_no_key() -> None:
    app = await connect({"type": "lifespan"})
    assert app.called
