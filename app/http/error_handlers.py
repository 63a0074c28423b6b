"""The one place where an error becomes an HTTP answer, in the one error shape."""

import json
from collections.abc import Mapping
from copy import copy
from types import MappingProxyType
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from app.core.errors import InvalidRequest, MethodNotAllowed, NotFound, ServiceError
from app.core.validation import describe_error
from app.http import openapi as examples

METHODS = ("GET", "HEAD", "POST", "DELETE")
"""All that any path answers."""


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


Documented = dict[int | str, dict[str, Any]]
"""The `responses` of a route, a router or the app, for the schema."""

_HEADERS: dict[str, Any] = {
    "X-Should-Retry": {
        "description": "Whether it is of use to send the request again.",
        "schema": {"type": "string", "enum": ["true", "false"]},
    },
    "Retry-After": {"description": "In so many seconds.", "schema": {"type": "integer"}},
}


def documented(
    *kinds: type[ServiceError], names: Mapping[str, str] = MappingProxyType({})
) -> Documented:
    """What a route may raise, by status, with the codes in the description and an example of each.

    `names`: what the route calls parameters that are called otherwise elsewhere.
    """
    by_status: dict[int | str, list[ServiceError]] = {}
    for kind in kinds:
        error = renamed(examples.ERRORS[kind], names)
        by_status.setdefault(kind.status, []).append(error)
    return {status: _shown(errors) for status, errors in by_status.items()}


def renamed(error: ServiceError, names: Mapping[str, str]) -> ServiceError:
    """The same, of the parameter as it is called in `names`."""
    error = copy(error)
    error.param = names.get(str(error.param), error.param)
    return error


def _shown(errors: list[ServiceError]) -> dict[str, Any]:
    headers = ["X-Should-Retry"]
    if any(error.retry_after_s is not None for error in errors):
        headers.append("Retry-After")
    shown = {error.code: {"value": error_body(error)} for error in errors}
    return {
        "description": " or ".join(f"`{code}`" for code in shown),
        "model": ErrorBody,
        "headers": {name: _HEADERS[name] for name in headers},
        "content": {"application/json": {"examples": shown}},
    }


def error_response(error: ServiceError) -> JSONResponse:
    """The error's status, body and headers."""
    again = error.retryable or error.retry_after_s is not None
    headers = {"Cache-Control": "no-store", "X-Should-Retry": "true" if again else "false"}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.status in (408, 431):  # the rest of the request is not waited for
        headers["Connection"] = "close"
    return ErrorResponse(error, headers)


def error_body(error: ServiceError) -> dict[str, Any]:
    """The one shape."""
    details = {
        "message": _sentence(error.message),
        "type": error.type,
        "code": error.code,
        "param": error.param,
    }
    return {"error": details}


def _sentence(message: str) -> str:
    """Reasons are written to follow a colon, too, in the log."""
    ended = message if message.endswith((".", "!", "?", "…")) else f"{message}."
    return ended[:1].upper() + ended[1:]


class ErrorResponse(JSONResponse):
    """Leaves its code in the request's state as `error_code`, for the log."""

    def __init__(self, error: ServiceError, headers: dict[str, str]) -> None:
        self._code = error.code
        super().__init__(error_body(error), error.status, headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})["error_code"] = self._code
        await super().__call__(scope, receive, send)

    def render(self, content: Any) -> bytes:
        """In ASCII: what is quoted of a request may be no text at all, a lone surrogate, say."""
        return json.dumps(content, separators=(",", ":")).encode()


def restore_nulls(schema: dict[str, Any]) -> None:
    """Of an error without a `param` it says null, which FastAPI leaves out of any schema."""
    for operations in schema["paths"].values():
        for operation in operations.values():
            for response in operation["responses"].values():
                media = response.get("content", {}).get("application/json", {})
                for example in media.get("examples", {}).values():
                    example["value"]["error"].setdefault("param", None)


ANY_OTHER_ERROR: Documented = {
    "default": {**_shown([examples.ANY_ERROR]), "description": "Any other error."}
}


def handle_errors(app: FastAPI) -> None:
    """Translate everything that a route may raise, and its response before it has started.

    A route may leave what it calls parameters in the request's state, as `parameter_names`.
    """

    @app.exception_handler(ServiceError)
    async def ours(request: Request, error: ServiceError) -> JSONResponse:
        return error_response(renamed(error, getattr(request.state, "parameter_names", {})))

    @app.exception_handler(HTTPException)
    async def the_frameworks(request: Request, error: HTTPException) -> JSONResponse:
        response = error_response(_translated(request, error))
        response.headers.update(error.headers or {})
        if error.status_code == 405:
            response.headers["Allow"] = ", ".join(_methods_at(request))
        return response

    @app.exception_handler(RequestValidationError)
    async def its_validation(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        param = str(first["loc"][-1]) if first["loc"] else None
        subject = repr(param) if param else "The request"
        return error_response(InvalidRequest(f"{subject} {describe_error(first)}.", param=param))


def _translated(request: Request, error: HTTPException) -> ServiceError:
    path, hint = request.scope["path"], "; see /docs" if request.app.openapi_url else ""
    if error.status_code == 404:
        return NotFound(f"There is nothing at {path}{hint}.")
    if error.status_code == 405:
        return MethodNotAllowed(f"{request.method} is not allowed at {path}{hint}.")
    return InvalidRequest(str(error.detail))


def _methods_at(request: Request) -> list[str]:
    """Of all routes of the path: the one that refuses knows its own methods only."""
    routes, scope = request.app.routes, request.scope
    return [
        method
        for method in METHODS
        if any(route.matches({**scope, "method": method})[0] is Match.FULL for route in routes)
    ]
