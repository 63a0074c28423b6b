"""The outermost middleware of our own: request id, log line and metrics of each request."""

import asyncio
import logging
import re
from time import monotonic
from uuid import uuid4

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.errors import ServiceError, TooManyWrongKeys, Unauthenticated
from app.http.auth import OPEN_PATHS
from app.http.error_handlers import METHODS, ErrorResponse
from app.observability.metrics import Metrics

log = logging.getLogger(__name__)

_DEBUG_PATHS_IF_OK = ("/metrics", "/system-status")
"""Polled, as the open paths are; their lines are logged at DEBUG unless the request failed."""

MAX_LOGGED_CHARACTERS = 200
"""Of a path or an address."""

_UNAUTHENTICATED = (Unauthenticated.code, TooManyWrongKeys.code)

CLIENT_CLOSED_REQUEST = 499
"""Nginx's status for a request that got no response because its client disconnected."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9-]{1,64}")


class AccessLogMiddleware:
    """Give each request an id (a valid `X-Request-ID` or a new one) and log one line at its end.

    Routes read the id as `request.state.request_id`. The line has the response's media type, the
    error's code, or `aborted` for a response without its end. It has no query string, which may
    contain the key.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, debug: bool) -> None:
        self._app = app
        self._metrics = metrics
        self._debug = debug  # FastAPI then responds with the traceback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = _identify(scope)
        started_at, status, content, complete = monotonic(), 0, "", False

        async def send_with_id(message: Message) -> None:
            nonlocal status, content, complete
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", request_id.encode()),
                ]
                named = Headers(raw=headers)
                if "cache-control" not in named:
                    headers.append((b"cache-control", b"no-store"))
                content = scope["state"].get("error_code") or named.get("content-type", "")
            await send(message)
            complete = message["type"] == "http.response.body" and not message.get("more_body")

        try:
            await self._app(scope, receive, send_with_id)
        except (ClientDisconnect, asyncio.CancelledError):
            pass  # no response can be sent; uvicorn cancels what outlasts the shutdown
        except Exception as bug:
            scope["state"]["error_code"] = ServiceError.code
            if status or self._debug:
                raise
            log.error("%s: a bug in %s", request_id, _shown(scope["path"]), exc_info=bug)
            error = ServiceError("An internal error. The log has the details.")
            await ErrorResponse(error)(scope, receive, send_with_id)
        finally:
            seconds = monotonic() - started_at
            aborted = not complete and "error_code" not in scope["state"]
            self._metrics.request_ended(
                getattr(scope.get("route"), "path", "other"),  # a template: labels are bounded
                scope["method"] if scope["method"] in METHODS else "other",
                status or (CLIENT_CLOSED_REQUEST if aborted else ServiceError.status),
                seconds,
                aborted=aborted,
            )
            outcome = (content or "-") if complete else "aborted"
            self._end(scope, scope["method"], status, outcome, seconds)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        _identify(scope)
        started_at = monotonic()
        try:
            await self._app(scope, receive, send)
        finally:
            outcome = scope["state"].get("error_code", "closed")
            self._end(scope, "WEBSOCKET", 0, outcome, monotonic() - started_at)

    def _end(self, scope: Scope, method: str, status: int, outcome: str, seconds: float) -> None:
        if scope["state"].get("error_code") in _UNAUTHENTICATED:
            self._metrics.request_unauthenticated()
        _log(scope, method, status, outcome, seconds)


def _identify(scope: Scope) -> str:
    sent = Headers(scope=scope).get("x-request-id", "")
    request_id = sent if _REQUEST_ID.fullmatch(sent) else uuid4().hex
    scope.setdefault("state", {})["request_id"] = request_id
    return request_id


def _log(scope: Scope, method: str, status: int, outcome: str, seconds: float) -> None:
    path = scope["path"]
    polled = path in OPEN_PATHS or (path in _DEBUG_PATHS_IF_OK and status == 200)
    log.log(
        logging.DEBUG if polled else logging.INFO,
        "%s %s %s %s %s %.3f s from %s",
        scope["state"]["request_id"],
        method,
        _shown(path),
        status or "-",
        outcome,
        seconds,
        _shown(scope["client"][0]) if scope.get("client") else "-",
    )


def _shown(text: str) -> str:
    return text if len(text) <= MAX_LOGGED_CHARACTERS else f"{text[:MAX_LOGGED_CHARACTERS]}…"
