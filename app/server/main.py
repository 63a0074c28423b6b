"""Run the service from its first listening socket to its exit.

Signals are handled here and not by uvicorn, which would close the listener at once: on SIGTERM
new work is refused with 503 while running streams are completed. A second signal ends them.
"""

import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Coroutine, Sequence
from importlib import import_module
from typing import Any, TypeVar
from urllib.parse import quote

from app.backend.base import Backend
from app.core.background import BackgroundTasks
from app.core.model import Model
from app.core.native import limit_retained_memory
from app.observability.loop_watchdog import watch_loop
from app.observability.system_stats import cpu_load
from app.server.services import running_services
from app.server.sockets import Listener, allow_many_descriptors, listen, url_of
from app.settings import LOOPBACK, Settings

log = logging.getLogger(__name__)

T = TypeVar("T")
Signals = asyncio.Queue[signal.Signals]

INTERRUPT_GRACE_S = 3.0
"""Grace time for streams after Ctrl-C."""


async def serve(settings: Settings, models: Sequence[Model]) -> None:
    """Serve until a signal. Raises `StartupError` if a port or a folder cannot be used."""
    signals = _handle_signals()
    allow_many_descriptors()
    listeners = _bind(settings)
    limit_retained_memory()  # encoders allocate megabytes
    cpu_load()  # the next call measures from here
    background = BackgroundTasks()
    async with running_services(settings, models, background) as state:
        # FastAPI takes half a second to import, in which the workers start.
        await asyncio.to_thread(import_module, "app.server.http_server")
        from app.server.http_server import create_servers

        servers = create_servers(state)
        serving = [
            asyncio.create_task(server.serve(sockets=[listener]))
            for server, listener in zip(servers, listeners, strict=True)
        ]
        gc.freeze()  # a collection that walks all modules takes 50 ms
        url = url_of(settings.host, settings.port)
        names = ", ".join(model.info.name for model in models)
        log.info("listening on %s:%d, model %s: %s", settings.host, settings.port, names, url)
        _print_link(settings, url)
        if settings.port_health:
            log.info("answering probes on port %d", settings.port_health)
        try:
            with watch_loop(state.metrics.loop_lagged):
                await _until_signalled(
                    signals, state.backend, background, settings.shutdown_grace_seconds
                )
        finally:
            if open_requests := sum(len(server.server_state.tasks) for server in servers):
                log.warning("%d requests are still being answered", open_requests)
            for server in servers:
                server.should_exit = True
            await asyncio.gather(*serving)
    if left := asyncio.all_tasks() - {asyncio.current_task()}:
        log.error("tasks still running: %s", [task.get_name() for task in left])
    log.info("stopped")


def _print_link(settings: Settings, url: str) -> None:
    """Print the page's address with the key to standard output; browsers keep a fragment back.

    A key of the user's own is only printed for a terminal of this machine: what a container prints
    is collected as a log.
    """
    on_own_screen = settings.host in LOOPBACK and sys.stdout and sys.stdout.isatty()
    if not (settings.key_was_made or on_own_screen):
        return
    key = quote(settings.key, safe="")
    print(f"\n    Open {url}#key={key}\n", flush=True)  # noqa: T201


def _bind(settings: Settings) -> list[Listener]:
    """Listen on `PORT` and, if it is set, on `PORT_HEALTH`."""
    ports = {"PORT": settings.port, "PORT_HEALTH": settings.port_health}
    return [listen(settings.host, port, name) for name, port in ports.items() if port]


def _handle_signals() -> Signals:
    """Queue the signals that end the service, from now on."""
    loop = asyncio.get_running_loop()
    signals: Signals = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signals.put_nowait, number)
    return signals


async def _until_signalled(
    signals: Signals, backend: Backend, background: BackgroundTasks, grace_s: float
) -> None:
    """Wait for a signal, then for the running streams. Raises the error of a crashed task."""
    received = await _unless_crashed(background, signals.get())
    if received == signal.SIGINT:
        grace_s = min(grace_s, INTERRUPT_GRACE_S)
    queue = backend.status().queue
    if queue.running or queue.waiting:
        log.info("%s: accepted streams have %g s to end", received.name, grace_s)
    else:
        log.info("%s", received.name)
    draining = asyncio.create_task(backend.drain(grace_s))
    again = asyncio.create_task(signals.get())
    await asyncio.wait({draining, again}, return_when=asyncio.FIRST_COMPLETED)
    again.cancel()
    if not draining.done():
        backend.abort()
        await draining


async def _unless_crashed(background: BackgroundTasks, event: Coroutine[Any, Any, T]) -> T:
    waiting = asyncio.create_task(event)
    either: set[asyncio.Future[Any]] = {waiting, background.crashed}
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if not waiting.done():
        waiting.cancel()
        background.crashed.result()
    return await waiting
