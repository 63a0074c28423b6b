"""The API in this process: real routes, voices and encoders, and a backend in memory."""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import uvicorn
from anyio.from_thread import BlockingPortal, start_blocking_portal
from fastapi import FastAPI

from app.http.dependencies import AppState
from app.observability.metrics import Metrics
from app.server.app import create_app
from app.settings import Settings
from app.speech.service import SpeechService
from app.voices.library import VoiceLibrary
from tests.support.fake_backend import FakeBackend
from tests.support.service import API_KEY


class _Transport(httpx.BaseTransport):
    """Runs the app on the service's event loop; a response arrives when it is complete."""

    def __init__(self, app: FastAPI, portal: BlockingPortal) -> None:
        self._asgi = httpx.ASGITransport(app, client=("127.0.0.1", 1))
        self._portal = portal

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.read()
        return self._portal.call(self._handle, request)

    async def _handle(self, request: httpx.Request) -> httpx.Response:
        response = await self._asgi.handle_async_request(request)
        content = httpx.ByteStream(await response.aread())
        return httpx.Response(response.status_code, headers=response.headers, stream=content)


class ContractService:
    """The API over an event loop in a thread (`portal`). Has the interface of `Service` in part."""

    def __init__(
        self, folder: Path, decoded_dir: Path, portal: BlockingPortal, **values: Any
    ) -> None:
        self.folder = folder
        self.voices_dir = folder / "voices"
        self.preloaded_dir = values.pop("preloaded_voices_dir", folder / "preloaded")
        for each in (self.voices_dir, self.preloaded_dir):
            each.mkdir(exist_ok=True)
        settings = Settings(
            api_key=API_KEY,
            voices_dir=self.voices_dir,
            preloaded_voices_dir=self.preloaded_dir,
            **values,
        )
        self.backend = FakeBackend(decoded_dir)
        self.voices = VoiceLibrary(
            self.voices_dir, self.preloaded_dir, decoded_dir, settings.max_upload_bytes
        )
        self.threads = ThreadPoolExecutor(1)
        metrics = Metrics()
        speech = SpeechService(settings, self.backend, self.voices, metrics, self.threads)
        self._app = create_app(AppState(settings, self.backend, self.voices, speech, metrics))
        self._portal = portal
        self.scan()

    def scan(self) -> None:
        """Read the voice folders, as the service does every two seconds."""
        self._portal.call(self.voices.scan)

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(
            transport=_Transport(self._app, self._portal),
            base_url="http://service",
            **({"headers": {"X-API-Key": API_KEY}} | options),
        )

    @contextmanager
    def listening(self) -> Iterator[str]:
        """Answer on a port, too; yields the URL."""
        listener = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(self._app, lifespan="off", log_config=None))
        serving = self._portal.start_task_soon(server.serve, [listener])
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            serving.result(30)

    def close(self) -> None:
        self.voices.close()
        self.threads.shutdown()


@contextmanager
def contract_service(folder: Path, **values: Any) -> Iterator[ContractService]:
    with start_blocking_portal() as portal, TemporaryDirectory() as decoded_dir:
        service = ContractService(folder, Path(decoded_dir), portal, **values)
        try:
            yield service
        finally:
            service.close()
