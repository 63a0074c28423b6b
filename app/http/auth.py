"""The API key, checked before any route is called or any body is read.

Plain ASGI middleware. It covers HTTP requests and WebSocket handshakes; any other kind of
connection is refused.
"""

import hashlib
import hmac
from collections.abc import Iterator, Set
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from app.core.errors import Unauthenticated
from app.http.error_handlers import ErrorResponse
from app.http.web_files import WEB_FILES

OPEN_PATHS = frozenset({"/health", "/ready", "/ping", *WEB_FILES})
"""Paths that never need a key."""

POLICY_VIOLATION = 1008
"""WebSocket close code (RFC 6455, 7.4.1)."""


class ApiKeyMiddleware:
    """Require the key as `X-API-Key`, `Authorization: Bearer` or `?api_key=`.

    HTTP requests to one of the `open_paths` need none.
    """

    def __init__(self, app: ASGIApp, api_key: str, open_paths: Set[str]) -> None:
        self._app = app
        self._open_paths = open_paths
        self._digest = _digest(api_key.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "lifespan":
                allowed = True
            case "http":
                allowed = scope["path"] in self._open_paths or self._has_key(scope)
            case "websocket":
                allowed = self._has_key(scope)
            case other:
                raise ValueError(f"{other!r} connections are not supported")
        await (self._app if allowed else _refuse)(scope, receive, send)

    def _has_key(self, scope: Scope) -> bool:
        # Digests have one length, so that the duration of a comparison depends on no key.
        return any(hmac.compare_digest(_digest(key), self._digest) for key in _keys(scope))


def _keys(scope: Scope) -> Iterator[bytes]:
    headers = Headers(scope=scope)
    yield headers.get("x-api-key", "").encode("latin-1")
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        yield token.strip().encode("latin-1")
    if query := scope["query_string"].decode("latin-1"):
        for key in parse_qs(query).get("api_key", []):
            yield key.encode(errors="replace")


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """Respond 401. A WebSocket server that cannot send a response closes, which clients see as 403.

    https://asgi.readthedocs.io/en/latest/extensions.html#websocket-denial-response
    """
    if scope["type"] == "websocket" and "websocket.http.response" not in scope.get(
        "extensions", {}
    ):
        scope.setdefault("state", {})["error_code"] = Unauthenticated.code
        await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": ""})
        return
    error = Unauthenticated(
        "The API key is missing or wrong. It goes into a header, X-API-Key: <key> or "
        "Authorization: Bearer <key>, or into the query, ?api_key=<key>."
    )
    await ErrorResponse(error)(scope, receive, send)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
