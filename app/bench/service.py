"""A service to be tried hard: `python -m app serve` in a folder of its own, seen from outside."""

import asyncio
import secrets
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import httpx
import psutil

from app.core.errors import StartupError
from app.core.process_env import child_environment, python_path
from app.settings import Settings

PACKAGE_PARENT = Path(__file__).parents[2]
START_S = 60.0
STOP_S = 15.0
"""An idle service needs none of the grace that running streams have."""

ANSWER_S = 30.0
POLL_S = 0.05
KEEP_ALIVE_S = 2.0
"""Shorter than the service's, so that no request meets a connection that is just being closed."""

NARROW = [(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)]


class Violation(Exception):
    """An invariant was broken, or the contract; the message says how."""


@dataclass(frozen=True)
class Footprint:
    """What an idle master takes up; `sockets` are those in its temporary folder.

    `memory_mb` is what it has resident.
    """

    memory_mb: float
    descriptors: int
    threads: int
    sockets: int

    @property
    def countable(self) -> tuple[int, int, int]:
        """All but the memory, which never stands quite still."""
        return self.descriptors, self.threads, self.sockets


class Service:
    """One running service. `folder` has its log, its voices and its temporary files."""

    def __init__(self, folder: Path, port: int, key: str, process: Process) -> None:
        self.log_path = folder / "service.log"
        self.voices_dir = folder / "voices"
        self.temp_dir = folder / "tmp"
        self.url = f"http://127.0.0.1:{port}"
        self.key = key
        self._process = process
        self._master = psutil.Process(process.pid)

    @classmethod
    @asynccontextmanager
    async def running(cls, folder: Path, **settings: object) -> AsyncIterator["Service"]:
        """Ready on entry; gone on exit, if need be by force. Raises `StartupError`.

        `settings` by their names, over the defaults; none are inherited.
        """
        port, key = _free_port(), secrets.token_urlsafe()
        for made in ("voices", "preloaded", "tmp"):
            (folder / made).mkdir()
        with (folder / "service.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "app", "serve"),
                cwd=folder,
                env=_environment(folder, port, key, settings),
                stdin=DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is ours alone
            )
        service = cls(folder, port, key, process)
        try:
            if not await service.until_calm(START_S):
                raise StartupError(f"the service does not start; see {service.log_path}")
            yield service
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    @asynccontextmanager
    async def clients(self) -> AsyncIterator[tuple[httpx.AsyncClient, httpx.AsyncClient]]:
        """With as many connections as are wanted; the other one reads nothing ahead."""
        async with self._client() as http, self._client(socket_options=NARROW) as narrow:
            yield http, narrow

    async def status(self) -> dict[str, Any]:
        """What `/system-status` says."""
        told: dict[str, Any] = await self._get("/system-status")
        return told

    async def voices(self) -> set[str]:
        return set(await self._get("/voices"))

    async def until_calm(self, timeout_s: float) -> bool:
        """Whether every worker becomes ready, with nothing to do, in time."""

        async def calm() -> bool:
            try:
                status = await self.status()
            except Violation:
                return False
            queue = status["queue"]
            return not queue["waiting"] and all(
                worker["state"] == "ready" and not worker["busy"] for worker in status["workers"]
            )

        return await self._until(calm, timeout_s)

    def footprint(self) -> Footprint:
        return Footprint(
            self._master.memory_info().rss / 1e6,
            self._master.num_fds(),
            self._master.num_threads(),
            sum(path.is_socket() for path in self.temp_dir.glob("*/*")),
        )

    def children(self) -> list[psutil.Process]:
        """All processes below the master, zombies too."""
        return self._master.children(recursive=True)

    async def stop(self) -> int | None:
        """SIGTERM; the exit code, or None if that takes too long."""
        self._process.send_signal(signal.SIGTERM)
        try:
            return await asyncio.wait_for(self._process.wait(), STOP_S)
        except TimeoutError:
            return None

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    async def _until(self, condition: Callable[[], Awaitable[bool]], timeout_s: float) -> bool:
        deadline = monotonic() + timeout_s
        while not await condition():
            if self._process.returncode is not None or monotonic() > deadline:
                return False
            await asyncio.sleep(POLL_S)
        return True

    async def _get(self, path: str) -> Any:
        """What is there; raises `Violation` if nothing is."""
        try:
            async with self._client() as http, asyncio.timeout(ANSWER_S):
                return (await http.get(path)).raise_for_status().json()
        except (httpx.HTTPError, TimeoutError) as fault:
            raise Violation(f"{path}: {fault!r}") from None

    def _client(self, **transport: Any) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=None, keepalive_expiry=KEEP_ALIVE_S)
        return httpx.AsyncClient(
            base_url=self.url,
            headers={"X-API-Key": self.key},
            transport=httpx.AsyncHTTPTransport(limits=limits, verify=False, **transport),
            timeout=httpx.Timeout(None),  # each call has one of its own
        )


def _environment(folder: Path, port: int, key: str, settings: dict[str, object]) -> dict[str, str]:
    """Of the service: these settings and no others, and its own folders."""
    own = {
        "API_KEY": key,
        "HOST": "127.0.0.1",
        "PORT": port,
        "VOICES_DIR": folder / "voices",
        "PRELOADED_VOICES_DIR": folder / "preloaded",
        "TMPDIR": folder / "tmp",
        "PYTHONPATH": python_path(PACKAGE_PARENT),
        "CUDA_VISIBLE_DEVICES": "",
    }
    others = {name: value for name, value in child_environment().items() if not _is_setting(name)}
    return others | {name: str(value) for name, value in (own | settings).items()}


def _is_setting(name: str) -> bool:
    return name.lower() in Settings.model_fields


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
