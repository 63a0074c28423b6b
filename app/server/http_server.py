"""uvicorn with this service's connections, for the API and for the port of probes."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import uvicorn
from fastapi import FastAPI

from app.http.dependencies import AppState
from app.server.app import create_app, create_probe_app
from app.server.connection import DeadlineHttpProtocol
from app.server.connection_limit import ConnectionLimit
from app.server.sockets import BACKLOG
from app.settings import Settings

CONNECTIONS_GRACE_S = 3
"""Time for responses after that of the streams; then their connections are aborted."""


def create_servers(state: AppState) -> list["HttpServer"]:
    """One server for `PORT` and, if it is set, one for `PORT_HEALTH`."""
    settings = state.settings
    apps = [create_app(state), *([create_probe_app(state)] if settings.port_health else [])]
    return [HttpServer(app, settings) for app in apps]


class HttpServer(uvicorn.Server):
    def __init__(self, app: FastAPI, settings: Settings) -> None:
        class Protocol(DeadlineHttpProtocol):
            limit = ConnectionLimit(settings.max_connections, settings.max_connections_per_address)
            idle: ClassVar[dict[DeadlineHttpProtocol, None]] = {}
            client_stall_s = settings.client_stall_seconds

        self._app = app
        super().__init__(
            uvicorn.Config(
                app,
                http=Protocol,
                ws="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                log_level="warning",
                backlog=BACKLOG,
                server_header=False,
                timeout_keep_alive=settings.keep_alive_seconds,
                timeout_graceful_shutdown=CONNECTIONS_GRACE_S + 1,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        await asyncio.to_thread(self._app.openapi)  # so that no request waits for it

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Abort connections after the grace time; uvicorn would cancel tasks, with tracebacks."""
        aborting = asyncio.get_running_loop().call_later(CONNECTIONS_GRACE_S, self._abort)
        await super().shutdown(sockets)
        aborting.cancel()

    def _abort(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
