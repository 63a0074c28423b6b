"""The FastAPI application: routes, and the order of middleware before them."""

from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from app import __version__
from app.core.errors import Unauthenticated
from app.http.dependencies import AppState
from app.http.error_handlers import (
    ANY_OTHER_ERROR,
    METHODS,
    documented,
    handle_errors,
    restore_nulls,
)
from app.http.middleware import OPEN_PATHS, ApiKey, RequestLog
from app.protocols.native import metrics, speech, system, voices
from app.protocols.native import pages as page
from app.protocols.openai import routes as openai

EXPOSED_HEADERS = (
    *("X-Request-ID", "X-TTS-Model", "X-TTS-Notice", "X-Sample-Rate"),
    *("Retry-After", "X-Should-Retry"),
)

KEY_PLACES = {
    "Header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "Bearer": {"type": "http", "scheme": "bearer"},
    "Query": {"type": "apiKey", "in": "query", "name": "api_key"},
}
"""For the schema, any one of them; `ApiKey` is what checks."""


class _App(FastAPI):
    """Says where the key goes. FastAPI's own way would look for it again, in every request."""

    open_paths: frozenset[str] = OPEN_PATHS
    """What may be asked without a key."""

    def openapi(self) -> dict[str, Any]:
        if not self.openapi_schema:
            schema = super().openapi()
            schema["components"]["securitySchemes"] = KEY_PLACES
            restore_nulls(schema)
            settings = self.state.services.settings
            speech.document_settings(schema["paths"]["/tts/generate"], settings)
            for path in schema["paths"].keys() - self.open_paths:
                for operation in schema["paths"][path].values():
                    operation["security"] = [{place: []} for place in KEY_PLACES]
        return super().openapi()


def create_app(state: AppState) -> FastAPI:
    """The whole API. Outermost first: CORS (answers preflights), the log, the key, the routes."""
    settings = state.settings
    app = _App(
        title="Chatterbox TTS Server",
        version=__version__,
        debug=settings.debug,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # to wherever the Host header says, with the key in the query
        responses=ANY_OTHER_ERROR,
    )
    app.state.services = state
    if settings.public_voice_list:
        app.open_paths |= {openai.VOICE_LIST}
    if settings.public_metrics:
        app.open_paths |= {metrics.PATH}
    for router in (
        *(speech.router, openai.speech, openai.router),
        *(voices.router, system.router, metrics.router),
    ):
        app.include_router(router, responses=documented(Unauthenticated))
    app.include_router(system.probes)
    app.include_router(page.router)
    handle_errors(app)
    app.add_middleware(
        ApiKey, api_key=settings.api_key.get_secret_value().strip(), open_paths=app.open_paths
    )
    app.add_middleware(RequestLog, metrics=state.metrics, debug=settings.debug)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=settings.cors_origins,
        allow_methods=METHODS,
        allow_headers=("*",),
        expose_headers=EXPOSED_HEADERS,
    )
    return app


def create_probe_app(state: AppState) -> FastAPI:
    """What `PORT_HEALTH` serves: liveness and readiness, without a key."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.state.services = state
    app.include_router(system.probes)
    handle_errors(app)
    return app
