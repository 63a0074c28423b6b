"""What every request passes before its route: a name and a log line, then the key.

Plain ASGI, so that nothing is buffered and no body is read before the key was seen.
"""

import hashlib
import hmac
import logging
import re
from collections.abc import Set
from time import monotonic
from urllib.parse import parse_qs
from uuid import uuid4

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.errors import ServiceError, Unauthenticated
from app.http.error_handlers import METHODS, error_response
from app.http.headers import header
from app.http.web_files import WEB_FILES
from app.observability.metrics import Metrics

log = logging.getLogger(__name__)

OPEN_PATHS = frozenset({"/health", "/ready", "/ping", *WEB_FILES})
"""What may be asked without a key, whatever the settings say."""

_POLLED_PATHS = OPEN_PATHS | {"/metrics"}
"""Their lines in the log are for debugging."""

_POLLED_WITH_KEY = "/system-status"
"""Its line, too, where it was answered: a refused key is of interest to everybody."""

CLIENT_LEFT = 499
"""What stands for a status, where there was none: nginx' word for it."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9-]{1,64}")


class RequestLog:
    """Gives each request an id (the client's, if it sent a proper one) and a line in the log.

    The metrics are told of each, too.

    Routes find it as `request.state.request_id`. The line tells what was sent: a media type, an
    error's code, or `aborted` if the answer has no end, or there is none, because the client left
    amid its body. It has no query: that may hold the key.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, debug: bool) -> None:
        self._app = app
        self._metrics = metrics
        self._debug = debug  # then FastAPI's page shows a bug

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = header(scope, b"x-request-id")
        request_id = sent if _REQUEST_ID.fullmatch(sent) else uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        began, status, sent_what, complete = monotonic(), 0, "", False

        async def with_id(message: Message) -> None:
            nonlocal status, sent_what, complete
            if message["type"] == "http.response.start":
                status = message["status"]
                named = (b"x-request-id", request_id.encode())
                message["headers"] = [*message["headers"], named]
                sent_what = scope["state"].get("error_code") or header(message, b"content-type")
            await send(message)
            complete = message["type"] == "http.response.body" and not message.get("more_body")

        try:
            await self._app(scope, receive, with_id)
        except ClientDisconnect:
            pass  # there is nobody to be answered
        except Exception as bug:
            scope["state"]["error_code"] = ServiceError.code
            if status or self._debug:
                raise
            log.error("%s: a bug in %s", request_id, scope["path"], exc_info=bug)
            fault = ServiceError("An internal error. The log has the details.")
            await error_response(fault)(scope, receive, with_id)
        finally:
            seconds = monotonic() - began
            left = not complete and "error_code" not in scope["state"]
            self._metrics.request_ended(
                _route(scope),
                scope["method"] if scope["method"] in METHODS else "other",
                status or (CLIENT_LEFT if left else ServiceError.status),
                seconds,
                aborted=left,
            )
            path = scope["path"]
            polled = path in _POLLED_PATHS or (path == _POLLED_WITH_KEY and status == 200)
            log.log(
                logging.DEBUG if polled else logging.INFO,
                "%s %s %s %s %s %.3f s from %s",
                request_id,
                scope["method"],
                path,
                status or "-",
                (sent_what or "-") if complete else "aborted",
                seconds,
                scope["client"][0] if scope.get("client") else "-",
            )


def _route(scope: Scope) -> str:
    """The template of the path, as it was routed: what a client may ask for has no end."""
    route: str = getattr(scope.get("route"), "path", "other")
    return route


class ApiKey:
    """Lets through what carries the key: `X-API-Key`, `Authorization: Bearer`, or `?api_key=`.

    And, without one, whatever asks for one of the `open_paths`.
    """

    def __init__(self, app: ASGIApp, api_key: str, open_paths: Set[str]) -> None:
        self._app = app
        self._open_paths = open_paths
        self._digest = _digest(api_key.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in self._open_paths or self._has_key(scope):
            await self._app(scope, receive, send)
            return
        refusal = Unauthenticated(
            "The API key is missing or wrong. It goes into a header, X-API-Key: <key> or "
            "Authorization: Bearer <key>, or into the query, ?api_key=<key>."
        )
        await error_response(refusal)(scope, receive, send)

    def _has_key(self, scope: Scope) -> bool:
        given = [header(scope, b"x-api-key").encode("latin-1")]
        scheme, _, token = header(scope, b"authorization").partition(" ")
        if scheme.lower() == "bearer":
            given.append(token.strip().encode("latin-1"))
        if query := scope["query_string"].decode("latin-1"):
            given += [key.encode(errors="replace") for key in parse_qs(query).get("api_key", [])]
        # Digests, so that the time taken tells nothing of the key, not even its length.
        return any(hmac.compare_digest(_digest(key), self._digest) for key in given)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
