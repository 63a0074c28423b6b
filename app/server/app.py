"""The FastAPI application: protocols, error handlers and middleware."""

from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from app import __version__
from app.core.errors import Unauthenticated
from app.http.access_log import AccessLogMiddleware
from app.http.auth import OPEN_PATHS, ApiKeyMiddleware
from app.http.dependencies import AppState
from app.http.error_handlers import METHODS, handle_errors
from app.http.openapi import DEFAULT_RESPONSE, SECURITY_SCHEMES, error_responses, restore_nulls
from app.protocols.native import health, metrics, pages, speech, status, voices
from app.protocols.native.documentation import document_settings
from app.protocols.openai import routes as openai

EXPOSED_HEADERS = (
    *("X-Request-ID", "X-TTS-Model", "X-TTS-Notice", "X-Sample-Rate"),
    *("Retry-After", "X-Should-Retry"),
)


class _App(FastAPI):
    """Documents the API key. FastAPI's security dependencies would check it in each route again."""

    open_paths: frozenset[str] = OPEN_PATHS

    def openapi(self) -> dict[str, Any]:
        if not self.openapi_schema:
            schema = super().openapi()
            schema["components"]["securitySchemes"] = SECURITY_SCHEMES
            restore_nulls(schema)
            document_settings(schema["paths"]["/tts/generate"], self.state.services.settings)
            for path in schema["paths"].keys() - self.open_paths:
                for operation in schema["paths"][path].values():
                    operation["security"] = [{name: []} for name in SECURITY_SCHEMES]
        return super().openapi()


def create_app(state: AppState) -> FastAPI:
    """Create the API. Its middleware, outermost first: CORS, access log, API key."""
    settings = state.settings
    app = _App(
        title="Chatterbox TTS Server",
        version=__version__,
        debug=settings.debug,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # a redirect follows the Host header, with the key in the query
        responses=DEFAULT_RESPONSE,
    )
    app.state.services = state
    if settings.public_voice_list:
        app.open_paths |= {openai.VOICE_LIST}
    if settings.public_metrics:
        app.open_paths |= {metrics.PATH}
    for protocol in (speech, openai, voices, status, metrics):
        app.include_router(protocol.router, responses=error_responses(Unauthenticated))
    app.include_router(health.router)
    app.include_router(pages.router)
    handle_errors(app)
    app.add_middleware(
        ApiKeyMiddleware,
        api_key=settings.api_key.get_secret_value().strip(),
        open_paths=app.open_paths,
    )
    app.add_middleware(AccessLogMiddleware, metrics=state.metrics, debug=settings.debug)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=settings.cors_origins,
        allow_methods=METHODS,
        allow_headers=("*",),
        expose_headers=EXPOSED_HEADERS,
    )
    return app


def create_probe_app(state: AppState) -> FastAPI:
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.state.services = state
    app.include_router(health.router)
    handle_errors(app)
    return app
