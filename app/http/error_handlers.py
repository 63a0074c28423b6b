"""Translate every error into an HTTP response of one shape; nothing else does."""

import json
from collections.abc import Collection, Mapping
from copy import copy
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from app.core.errors import InvalidRequest, MethodNotAllowed, NotFound, ServiceError
from app.core.validation import describe_error, shortened
from app.http.route_hints import routes_of_purpose, similar_route

METHODS = ("GET", "HEAD", "POST", "PATCH", "DELETE")
"""Methods that routes of this service have."""


class ErrorDetails(BaseModel):
    message: str
    type: Literal[
        "invalid_request_error",
        "authentication_error",
        "not_found_error",
        "rate_limit_error",
        "server_error",
    ]
    code: str
    param: str | None


class ErrorBody(BaseModel):
    error: ErrorDetails


def handle_errors(app: FastAPI, routes: Collection[str]) -> None:
    """Install handlers for all exceptions of routes and of responses that have not started.

    `routes`: paths that a 404 may suggest. A route may set `request.state.parameter_names`, its
    own names of parameters.
    """

    @app.exception_handler(ServiceError)
    async def service_error(request: Request, error: ServiceError) -> JSONResponse:
        names = getattr(request.state, "parameter_names", {})
        return ErrorResponse(with_param_names(error, names))

    @app.exception_handler(HTTPException)
    async def http_exception(request: Request, error: HTTPException) -> JSONResponse:
        response = ErrorResponse(_from_http_exception(request, error, routes))
        response.headers.update(error.headers or {})
        if error.status_code == 405:
            response.headers["Allow"] = ", ".join(_allowed_methods(request))
        return response

    @app.exception_handler(RequestValidationError)
    async def validation_error(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        param = str(first["loc"][-1]) if first["loc"] else None
        subject = repr(param) if param else "The request"
        return ErrorResponse(InvalidRequest(f"{subject} {describe_error(first)}.", param=param))


class ErrorResponse(JSONResponse):
    """Leaves its code in the scope's state as `error_code`, for the access log."""

    def __init__(self, error: ServiceError) -> None:
        self._code = error.code
        retry = error.retryable or error.retry_after_s is not None
        headers = {"Cache-Control": "no-store", "X-Should-Retry": "true" if retry else "false"}
        if error.retry_after_s is not None:
            headers["Retry-After"] = str(error.retry_after_s)
        if error.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if error.status in (408, 431):  # the rest of the request is not read
            headers["Connection"] = "close"
        super().__init__(error_body(error), error.status, headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})["error_code"] = self._code
        await super().__call__(scope, receive, send)

    def render(self, content: Any) -> bytes:
        """Encode as ASCII: parts of a request that are quoted may contain lone surrogates."""
        return json.dumps(content, separators=(",", ":")).encode()


def error_body(error: ServiceError) -> dict[str, Any]:
    details = {
        "message": _sentence(error.message),
        "type": error.type,
        "code": error.code,
        "param": error.param,
    }
    return {"error": details}


def with_param_names(error: ServiceError, names: Mapping[str, str]) -> ServiceError:
    """Return a copy of `error` with `param` renamed for this API."""
    error = copy(error)
    error.param = names.get(str(error.param), error.param)
    return error


def _sentence(message: str) -> str:
    """Capitalise and end a message; in the log it follows a colon."""
    ended = message if message.endswith((".", "!", "?", "…")) else f"{message}."
    return ended[:1].upper() + ended[1:]


def _from_http_exception(
    request: Request, error: HTTPException, routes: Collection[str]
) -> ServiceError:
    path, hint = request.scope["path"], ""
    if request.app.openapi_url:
        hint = f"; see {shortened(str(request.base_url))}docs"
    if error.status_code == 404:
        if similar := similar_route(path, routes):
            return NotFound(f"There is nothing at {path}; the route is {similar}.")
        if meant := routes_of_purpose(path, routes):
            return NotFound(f"There is nothing at {path}; {meant}{hint}.")
        return NotFound(f"There is nothing at {path}{hint}.")
    if error.status_code == 405:
        allowed = ", ".join(_allowed_methods(request))
        return MethodNotAllowed(
            f"{request.method} is not allowed at {path}{hint}. Allowed: {allowed}."
        )
    return InvalidRequest(str(error.detail))


def _allowed_methods(request: Request) -> list[str]:
    """Ask all routes of the path: the route that raised 405 knows its own methods only."""
    routes, scope = request.app.routes, request.scope
    return [
        method
        for method in METHODS
        if any(route.matches({**scope, "method": method})[0] is Match.FULL for route in routes)
    ]
