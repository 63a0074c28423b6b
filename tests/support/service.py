"""The service as its users meet it: `python -m app serve` in a process of its own, over HTTP."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import httpx

ROOT = Path(__file__).parents[2]
API_KEY = "test-key-4f1d"
SCRIPTED = "tests.support.engines:ScriptedEngine"
START_S = 60.0


class Service:
    """One running service. `env` is its configuration on top of a folder of its own.

    `entry`: the module that is run to serve, and arguments before `serve`.
    """

    def __init__(
        self, folder: Path, env: dict[str, Any], entry: tuple[str, ...] = ("app",)
    ) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log_path = folder / "service.log"
        self.voices_dir = folder / "voices"
        self.preloaded_dir = folder / "preloaded"
        for made in (self.voices_dir, self.preloaded_dir):
            made.mkdir(exist_ok=True)
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("TTS_")
        } | {
            "API_KEY": API_KEY,
            "HOST": "127.0.0.1",
            "PORT": str(self.port),
            "VOICES_DIR": str(self.voices_dir),
            "PRELOADED_VOICES_DIR": str(self.preloaded_dir),
            "MODEL": SCRIPTED,
            "PYTHONPATH": str(ROOT),
            **{name: str(value) for name, value in env.items()},
        }
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *entry, "serve"],
                cwd=folder,
                env=environment,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(**(self._options | options))

    def async_client(self, **options: Any) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=None)
        return httpx.AsyncClient(**(self._options | {"limits": limits} | options))

    @property
    def _options(self) -> dict[str, Any]:
        # Without `verify`, each client would read all certificates of the world first.
        headers = {"X-API-Key": API_KEY}
        return {"base_url": self.url, "headers": headers, "timeout": 60, "verify": False}

    def connect(self) -> socket.socket:
        """A bare connection, for what no HTTP client would send."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def wait_ready(self) -> "Service":
        self.wait_until(lambda: self.ready_workers() > 0, START_S)
        return self

    def ready_workers(self) -> int:
        try:
            return sum(worker["state"] == "ready" for worker in self.status()["workers"])
        except httpx.TransportError:
            return 0

    def status(self) -> dict[str, Any]:
        with self.client() as client:
            return client.get("/system-status").raise_for_status().json()

    def busy(self) -> int:
        return sum(worker["busy"] for worker in self.status()["workers"])

    def worker_pids(self) -> list[int]:
        return [worker["pid"] for worker in self.status()["workers"] if worker["pid"]]

    def wait_until(self, condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
        """Ask again and again; fails with the service's log after `timeout_s`."""
        deadline = monotonic() + timeout_s
        while not condition():
            if self.process.poll() is not None or monotonic() > deadline:
                raise AssertionError(f"never came true; the log says:\n{self.log()[-4000:]}")
            sleep(0.02)

    async def until(self, condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
        """`wait_until`, while the clients of an async test go on."""
        await asyncio.to_thread(self.wait_until, condition, timeout_s)

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = 40.0) -> int:
        """The exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"did not stop; the log says:\n{self.log()[-4000:]}") from None


@contextmanager
def running_service(
    folder: Path, entry: tuple[str, ...] = ("app",), **env: Any
) -> Iterator[Service]:
    """A service that is ready on entry and gone on exit."""
    service = Service(folder, env, entry)
    try:
        yield service.wait_ready()
    finally:
        service.stop()
    assert API_KEY not in service.log()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
