"""The FastAPI application: protocols, error handlers and middleware."""

from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute

from app import __version__
from app.core.errors import Unauthenticated
from app.http.access_log import AccessLogMiddleware
from app.http.auth import OPEN_PATHS, ApiKeyMiddleware
from app.http.cors import CorsMiddleware
from app.http.dependencies import AppState
from app.http.error_handlers import handle_errors
from app.http.openapi import DEFAULT_RESPONSE, SECURITY_SCHEMES, error_responses, restore_nulls
from app.protocols.native import convert, health, metrics, pages, speech, status, voices
from app.protocols.native.documentation import document_settings
from app.protocols.openai import routes as openai


class _App(FastAPI):
    """Documents the API key. FastAPI's security dependencies would check it in each route again."""

    open_paths: frozenset[str] = OPEN_PATHS

    def openapi(self) -> dict[str, Any]:
        if not self.openapi_schema:
            schema = super().openapi()
            schema["components"]["securitySchemes"] = SECURITY_SCHEMES
            restore_nulls(schema)
            state: AppState = self.state.services
            generate = schema["paths"]["/tts/generate"]
            document_settings(generate, state.settings, state.backend.models)
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
        app.open_paths |= openai.PUBLIC_LISTS
    if settings.public_metrics:
        app.open_paths |= {metrics.PATH}
    protocols = [each.router for each in (speech, convert, openai, voices, status, metrics)]
    for router in protocols:
        app.include_router(router, responses=error_responses(Unauthenticated))
    app.include_router(health.router)
    app.include_router(pages.router)
    handle_errors(app, _paths(*protocols, health.router))
    app.add_middleware(
        ApiKeyMiddleware,
        api_key=settings.key,
        open_paths=app.open_paths,
    )
    app.add_middleware(AccessLogMiddleware, metrics=state.metrics, debug=settings.debug)
    app.add_middleware(CorsMiddleware, origins=settings.cors_origins)
    return app


def create_probe_app(state: AppState) -> FastAPI:
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.state.services = state
    app.include_router(health.router)
    handle_errors(app, _paths(health.router))
    return app


def _paths(*routers: APIRouter) -> list[str]:
    routes = (route for router in routers for route in router.routes)
    return list(dict.fromkeys(route.path for route in routes if isinstance(route, APIRoute)))
