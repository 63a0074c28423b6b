"""The one place where an error becomes an HTTP answer, in the one error shape."""

import json
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse

from app.errors import InvalidRequest, MethodNotAllowed, NotFound, ServiceError


def error_response(error: ServiceError) -> JSONResponse:
    """The error's status, body and headers."""
    body = {
        "message": error.message,
        "type": error.type,
        "code": error.code,
        "param": error.param,
    }
    headers = {"Cache-Control": "no-store"}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.status in (408, 431):  # the rest of the request is not waited for
        headers["Connection"] = "close"
    return _AsciiJson({"error": body}, error.status, headers)


class _AsciiJson(JSONResponse):
    """What it quotes of a client's request may be no text at all: a lone surrogate, say."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, separators=(",", ":")).encode()


def handle_errors(app: FastAPI) -> None:
    """Translate everything that a route may raise."""

    @app.exception_handler(ServiceError)
    async def ours(request: Request, error: ServiceError) -> JSONResponse:
        return error_response(error)

    @app.exception_handler(HTTPException)
    async def the_frameworks(request: Request, error: HTTPException) -> JSONResponse:
        kinds = {404: NotFound, 405: MethodNotAllowed}
        response = error_response(kinds.get(error.status_code, InvalidRequest)(str(error.detail)))
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(RequestValidationError)
    async def its_validation(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        param = str(first["loc"][-1]) if first["loc"] else None
        return error_response(InvalidRequest(first["msg"], param=param))

    @app.exception_handler(ClientDisconnect)
    async def nobody_listens(request: Request, error: ClientDisconnect) -> JSONResponse:
        return error_response(InvalidRequest("the client left"))
