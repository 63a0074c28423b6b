"""Cross-origin requests of web pages, for the origins that `CORS_ORIGINS` allows."""

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from app.core.errors import InvalidRequest
from app.core.validation import shortened
from app.http.error_handlers import METHODS, ErrorResponse

EXPOSED_HEADERS = (
    *("X-Request-ID", "X-TTS-Model", "X-TTS-Notice", "X-Sample-Rate"),
    *("Retry-After", "X-Should-Retry"),
)


class CorsMiddleware(CORSMiddleware):
    """Starlette's, with this service's errors. Any header may be sent."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=METHODS,
            allow_headers=("*",),
            expose_headers=EXPOSED_HEADERS,
        )
        # A page on the internet may call a server at home; older versions have no argument for it.
        self.allow_private_network = True
        self.preflight_headers["Access-Control-Allow-Private-Network"] = "true"

    def preflight_response(self, request_headers: Headers) -> Response:
        """Answer 400 for an origin or a method that is not allowed, else 200."""
        response = super().preflight_response(request_headers)
        if response.status_code == 200:
            return response
        origin = request_headers["origin"]
        method = request_headers["access-control-request-method"]
        reason = (
            f"The method {shortened(method)} is not allowed here; allowed are {', '.join(METHODS)}."
            if self.is_allowed_origin(origin)
            else f"The origin {shortened(origin)} is not allowed; add it to CORS_ORIGINS."
        )
        error = ErrorResponse(InvalidRequest(reason))
        for name, value in response.headers.items():
            error.headers.setdefault(name, value)
        return error
