"""The master: everything behind the HTTP server, put together.

`running` is its whole life: channels, voices, dispatcher and supervisor come up in this order and
go down in the other. The API holds one `Master` and calls its parts.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import zmq

from app.backend.local.dispatcher import Dispatcher, Limits
from app.backend.local.runtime_dir import RuntimeFolder, runtime_folder
from app.backend.local.supervisor import Policy, Supervisor
from app.core.audio import SAMPLE_RATE
from app.core.devices import Device, detect
from app.core.process_env import cpu_count, visible_cuda_devices
from app.ipc.channels import Broadcaster, broadcast_address
from app.ipc.messages import Voices, WorkerConfig
from app.observability.metrics import Metrics
from app.settings import Settings
from app.voices.library import VoiceLibrary

log = logging.getLogger(__name__)

REPEAT_STATE_S = 0.5
"""What a broadcast has lost is healed in a second, with the time that it takes to act on it."""
WATCH_VOICES_S = 2.0


class Master:
    """The service without HTTP. `model` names the engine that its workers run.

    `crashed` fails when a part of it does that should never end.
    """

    def __init__(self, settings: Settings, model: str, folder: RuntimeFolder) -> None:
        self.settings = settings
        self.model = model
        self._folder = folder
        self._context: zmq.Context[Any] = zmq.Context()
        self._broadcaster = Broadcaster(self._context, broadcast_address(folder.channels))
        self._voices_known = False
        self.voices = VoiceLibrary(
            settings.voices_dir,
            settings.preloaded_voices_dir,
            folder.voices,
            settings.max_upload_bytes,
        )
        self.voices.on_change = self._publish_voices
        limits = Limits(
            settings.max_queued_requests,
            settings.queue_timeout_seconds,
            int(settings.max_ahead_seconds * SAMPLE_RATE),
            settings.client_stall_seconds,
        )
        self.metrics = Metrics()
        self.dispatcher = Dispatcher(limits, self._broadcaster.send, self.metrics)
        policy = Policy(
            settings.concurrent_requests_per_worker,
            settings.worker_start_seconds,
            settings.worker_stall_seconds,
        )
        self.supervisor = Supervisor(
            self._context, self.dispatcher, self._broadcaster.send, policy, self._own
        )
        self.crashed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @classmethod
    @asynccontextmanager
    async def running(cls, settings: Settings, model: str) -> AsyncIterator["Master"]:
        """Raises `StartupError` if the folders for voices or sockets cannot be used."""
        with runtime_folder() as folder:
            master = cls(settings, model, folder)
            try:
                master.voices.check()
                master._start_workers(detect(visible_cuda_devices()))
                repeating = [
                    master._own(master._repeat_state(), "repeat state"),
                    master._own(master._follow_voices(), "follow voices"),
                ]
                try:
                    yield master
                finally:
                    for task in repeating:
                        task.cancel()
            finally:
                await master.supervisor.stop()
                master._close()

    async def drain(self, grace_s: float) -> None:
        """Refuse new jobs; returns when the accepted ones are over, aborting what takes longer."""
        self.dispatcher.drain()
        try:
            await asyncio.wait_for(self.dispatcher.idle(), grace_s)
        except TimeoutError:
            self.dispatcher.abort()

    def _start_workers(self, devices: list[Device]) -> None:
        per_device = self.settings.workers_per_device
        threads = max(1, cpu_count() // (len(devices) * per_device))
        for device in devices:
            for number in range(per_device):
                config = self._worker_config(f"{device.name}.{number}", device.kind, threads)
                self.supervisor.start(config, device)

    def _worker_config(self, name: str, device_kind: str, threads: int) -> WorkerConfig:
        settings = self.settings
        return WorkerConfig(
            name=name,
            incarnation=0,
            engine=self.model,
            engine_config=settings.engine_config(
                device_kind, threads, settings.concurrent_requests_per_worker
            ),
            queues=settings.queue_sizes(),
            channels=str(self._folder.channels),
            voices=str(self._folder.voices),
            log_level=settings.effective_log_level,
        )

    async def _repeat_state(self) -> None:
        while True:
            await asyncio.sleep(REPEAT_STATE_S)
            self.dispatcher.tick()
            if self._voices_known:
                self._publish_voices(self.voices.snapshot())

    async def _follow_voices(self) -> None:
        """Workers get ready when they have prepared what the first scan finds."""
        await self.voices.scan()
        self._voices_known = True
        await self.voices.log_folders()
        for name, voice in self.settings.voice_aliases.items():
            if self.voices.find(voice) is None:
                log.warning("VOICE_ALIASES: %s is %s, which is not there", name, voice)
        await self.voices.watch(WATCH_VOICES_S)

    def _publish_voices(self, snapshot: dict[str, str]) -> None:
        self._broadcaster.send(Voices(frozenset(snapshot.values())))

    def _own(self, work: Coroutine[Any, Any, None], name: str) -> "asyncio.Task[None]":
        """A task that runs as long as the service; its crash is known by `crashed`."""

        def report(task: "asyncio.Task[None]") -> None:
            if not task.cancelled() and (fault := task.exception()) and not self.crashed.done():
                self.crashed.set_exception(fault)

        task = asyncio.create_task(work, name=name)
        task.add_done_callback(report)
        return task

    def _close(self) -> None:
        self.voices.close()
        self._broadcaster.close()
        self._context.term()
