"""The service as users run it: `python -m app serve` in a process of its own, over HTTP."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import SystemRandom
from time import monotonic, sleep
from typing import Any

import httpx
import psutil

from app.core.log import BackgroundHandler
from app.settings import Settings

ROOT = Path(__file__).parents[2]
API_KEY = "test-key-4f1d"
SCRIPTED = "tests.support.engines:ScriptedEngine"
START_S = 60.0
PORTS = range(16_000, 32_000)
"""Below the kernel's ephemeral ports, so that no outgoing connection uses one."""


class Service:
    """One running service in `folder`; `env` are its settings over the defaults.

    `entry`: the module that is run, and its arguments before `serve`. `log`: a descriptor for its
    log, in place of a file.
    """

    def __init__(
        self,
        folder: Path,
        env: dict[str, Any],
        entry: tuple[str, ...] = ("app",),
        log: int | None = None,
    ) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log_path = folder / "service.log"
        self.cache_dir = folder / "cache"
        self.voices_dir = folder / "voices"
        self.preloaded_dir = folder / "preloaded"
        for made in (self.voices_dir, self.preloaded_dir):
            made.mkdir(exist_ok=True)
        settings = {
            "API_KEY": API_KEY,
            "HOST": "127.0.0.1",
            "PORT": self.port,
            "VOICES_DIR": self.voices_dir,
            "PRELOADED_VOICES_DIR": self.preloaded_dir,
            "MODEL": SCRIPTED,
            "XDG_CACHE_HOME": self.cache_dir,
            "XDG_STATE_HOME": folder / "state",
            "PYTHONPATH": ROOT,
        } | env
        inherited = {
            name: value
            for name, value in os.environ.items()
            if name.lower() not in Settings.model_fields
        }
        with self.log_path.open("ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *entry, "serve"],
                cwd=folder,
                env=inherited | {name: str(value) for name, value in settings.items()},
                stdout=file,
                stderr=file if log is None else log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the tests alone
            )

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(**(self._options | options))

    def async_client(self, **options: Any) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=None)
        return httpx.AsyncClient(**(self._options | {"limits": limits} | options))

    @property
    def _options(self) -> dict[str, Any]:
        # Without `verify=False`, each client would load all CA certificates first.
        headers = {"X-API-Key": API_KEY}
        return {"base_url": self.url, "headers": headers, "timeout": 60, "verify": False}

    def connect(self, receive_buffer: int | None = None) -> socket.socket:
        """Open a bare connection; with a small `receive_buffer` the client reads nothing ahead."""
        connection = socket.socket()
        if receive_buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.settimeout(20)
        connection.connect(("127.0.0.1", self.port))
        return connection

    # --- state ------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        with self.client() as client:
            return client.get("/system-status").raise_for_status().json()

    def workers(self) -> list[dict[str, Any]]:
        return self.status()["workers"]

    def queue(self, name: str) -> int:
        return self.status()["queue"][name]

    def answers(self) -> bool:
        """Whether the service answers requests, ready or not."""
        try:
            return bool(self.workers())
        except httpx.TransportError:
            return False

    def ready_workers(self) -> int:
        try:
            return sum(worker["state"] == "ready" for worker in self.workers())
        except httpx.TransportError:
            return 0

    def all_ready(self, excluded_pids: Collection[int] = ()) -> bool:
        return all(
            worker["state"] == "ready" and worker["pid"] and worker["pid"] not in excluded_pids
            for worker in self.workers()
        )

    def busy(self) -> int:
        return sum(worker["busy"] for worker in self.workers())

    def is_idle(self) -> bool:
        """Whether all workers are ready and have nothing to do."""
        try:
            status = self.status()
        except httpx.HTTPError:
            return False
        workers = status["workers"]
        ready = all(worker["state"] == "ready" and not worker["busy"] for worker in workers)
        return ready and not status["queue"]["waiting"]

    def worker_pids(self) -> list[int]:
        return [worker["pid"] for worker in self.workers() if worker["pid"]]

    def busy_pids(self) -> set[int]:
        return {worker["pid"] for worker in self.workers() if worker["busy"]}

    @property
    def master(self) -> psutil.Process:
        return psutil.Process(self.process.pid)

    def children(self) -> list[psutil.Process]:
        """Return all processes below the master, with zombies."""
        return self.master.children(recursive=True)

    def connections(self) -> list[Any]:
        """Return the master's established TCP connections."""
        return [each for each in self.master.net_connections("tcp") if each.status == "ESTABLISHED"]

    def log(self) -> str:
        """Return what was logged before this call; the service writes it in batches."""
        sleep(3 * BackgroundHandler.BATCH_S)
        return self.log_path.read_text(errors="replace")

    # --- waiting ----------------------------------------------------------------------------------

    def wait_ready(self, timeout_s: float = START_S) -> "Service":
        self.wait_until(lambda: self.ready_workers() > 0, timeout_s)
        return self

    def wait_until(self, condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
        """Poll the condition; fail with the service's log after `timeout_s`."""
        deadline = monotonic() + timeout_s
        while not condition():
            if self.process.poll() is not None or monotonic() > deadline:
                raise AssertionError(f"never came true; the log says:\n{self.log()[-4000:]}")
            sleep(0.02)

    async def until(self, condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
        """`wait_until` in a thread."""
        await asyncio.to_thread(self.wait_until, condition, timeout_s)

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = 40.0) -> int:
        """Send the signal and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"did not stop; the log says:\n{self.log()[-4000:]}") from None


@contextmanager
def running_service(
    folder: Path, entry: tuple[str, ...] = ("app",), start_s: float = START_S, **env: Any
) -> Iterator[Service]:
    """Start a service, wait until it is ready, and stop it on exit."""
    service = Service(folder, env, entry)
    try:
        yield service.wait_ready(start_s)
    finally:
        service.stop()
    assert API_KEY not in service.log()


def free_port() -> int:
    """Return a random free port, so that test processes side by side get different ones."""
    while True:
        with socket.socket() as probe:
            port = SystemRandom().choice(PORTS)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
