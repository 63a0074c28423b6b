"""The API key, checked before any route is called or any body is read.

Plain ASGI middleware. It covers HTTP requests and WebSocket handshakes; any other kind of
connection is refused.
"""

import asyncio
import hashlib
import hmac
from collections.abc import Iterator, Set
from time import monotonic
from urllib.parse import unquote_plus

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from app.core.client_address import network_of
from app.core.errors import TooManyWrongKeys, Unauthenticated
from app.http.error_handlers import ErrorResponse
from app.http.key_hints import describe_key
from app.http.web_files import WEB_FILES

OPEN_PATHS = frozenset({"/health", "/ready", "/ping", *WEB_FILES})
"""Paths that never need a key."""

POLICY_VIOLATION = 1008
"""WebSocket close code (RFC 6455, 7.4.1)."""

MAX_WRONG_KEYS = 10
"""Different ones from one client within `WRONG_KEYS_S`; more are answered 429."""

WRONG_KEYS_S = 60
MAX_NAME_LENGTH = 3 * len("api_key")  # percent-encoded
DELAY_S = 1.0
MAX_DELAYED = 100
"""Responses to guesses that are delayed at a time; others are sent at once."""

MAX_CLIENTS = 4096
"""Clients whose wrong keys are remembered."""


class ApiKeyMiddleware:
    """Require the key as `X-API-Key`, `Authorization: Bearer` or `?api_key=`.

    HTTP requests to one of the `open_paths` need none. `scope["state"]["has_key"]` says whether a
    request has it.
    """

    def __init__(self, app: ASGIApp, api_key: str, open_paths: Set[str]) -> None:
        self._app = app
        self._open_paths = open_paths
        self._digest = _digest(api_key.encode())
        self._wrong_keys = WrongKeys()
        self._delayed = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "lifespan":
                allowed = True
            case "http":
                allowed = self._has_key(scope) or scope["path"] in self._open_paths
            case "websocket":
                allowed = self._has_key(scope)
            case other:
                raise ValueError(f"{other!r} connections are not supported")
        if allowed:
            await self._app(scope, receive, send)
        else:
            await self._refuse(scope, receive, send)

    def _has_key(self, scope: Scope) -> bool:
        # Digests have one length, so that the duration of a comparison depends on no key.
        found = any(hmac.compare_digest(_digest(key), self._digest) for key in _keys(scope))
        scope.setdefault("state", {})["has_key"] = found
        return found

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond 401, or 429 to guesses.

        A WebSocket server that cannot send a response closes, which clients see as 403.
        https://asgi.readthedocs.io/en/latest/extensions.html#websocket-denial-response
        """
        error = self._wrong_keys.error(scope)
        if scope["type"] == "websocket" and "websocket.http.response" not in scope.get(
            "extensions", {}
        ):
            scope["state"]["error_code"] = error.code
            await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": ""})
            return
        response = ErrorResponse(error)
        if isinstance(error, TooManyWrongKeys):
            response.headers["Connection"] = "close"  # each further guess costs a connection
            await self._delay()
        await response(scope, receive, send)

    async def _delay(self) -> None:
        """Slow down a guesser; too many at a time are not made to wait, which costs memory."""
        if self._delayed < MAX_DELAYED:
            self._delayed += 1
            try:
                await asyncio.sleep(DELAY_S)
            finally:
                self._delayed -= 1


class WrongKeys:
    """Remembers the wrong keys of each client, by their digests, for a minute.

    A client that repeats one wrong key is misconfigured; one that tries many is guessing.
    """

    def __init__(self) -> None:
        self._clients: dict[str, tuple[float, set[bytes]]] = {}  # the least recent first

    def error(self, scope: Scope) -> Unauthenticated:
        """Return the error of a request without the right key, after remembering its keys."""
        if self._too_many(scope):
            return TooManyWrongKeys(
                f"Your address has sent {MAX_WRONG_KEYS} wrong API keys within a minute. Correct "
                "the key; the right one is accepted at any time."
            )
        keys = [key.decode("latin-1") for key in _keys(scope)]
        return Unauthenticated(describe_key(scope, keys))

    def _too_many(self, scope: Scope) -> bool:
        sent = {_digest(key) for key in _keys(scope) if key}
        if not sent:
            return False
        client, now = network_of(scope["client"][0] if scope.get("client") else ""), monotonic()
        since, wrong = self._clients.pop(client, (now, set()))
        if now - since > WRONG_KEYS_S:
            since, wrong = now, set()
        self._clients[client] = since, wrong
        if len(self._clients) > MAX_CLIENTS:
            del self._clients[next(iter(self._clients))]
        for digest in sent - wrong:
            if len(wrong) >= MAX_WRONG_KEYS:
                return True
            wrong.add(digest)
        return False


def _keys(scope: Scope) -> Iterator[bytes]:
    headers = Headers(scope=scope)
    yield headers.get("x-api-key", "").encode("latin-1")
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        yield token.strip().encode("latin-1")
    for field in scope["query_string"].decode("latin-1").split("&"):  # a long text is not decoded
        name, _, value = field.partition("=")
        if value and len(name) <= MAX_NAME_LENGTH and unquote_plus(name) == "api_key":
            yield unquote_plus(value).encode(errors="replace")
            break  # no request tries many


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
