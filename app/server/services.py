"""Start what the HTTP server needs, and stop it in reverse order."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace

from app.backend.base import Backend
from app.backend.local.backend import LocalBackend
from app.backend.local.runtime_dir import RuntimeDir, runtime_dir
from app.backend.routed import RoutedBackend
from app.core.background import BackgroundTasks
from app.core.cpu import cpu_count
from app.core.model import Model
from app.core.running_time import timeout
from app.http.dependencies import AppState
from app.observability.metrics import Metrics
from app.server.made_key import kept_key
from app.server.voice_cache_dir import voice_cache_dir
from app.settings import Settings
from app.speech.service import SpeechService
from app.voices.library import VoiceLibrary

log = logging.getLogger(__name__)

WATCH_VOICES_S = 2.0
FIRST_SCAN_S = 5.0
MAX_CHECK_S = 2.0


@asynccontextmanager
async def running_services(
    settings: Settings, models: Sequence[Model], background: BackgroundTasks
) -> AsyncIterator[AppState]:
    """Run voices, backend and speech service. Raises `StartupError` if a folder is unusable."""
    metrics = Metrics()
    threads = ThreadPoolExecutor(cpu_count(), thread_name_prefix="encoder")
    async with AsyncExitStack() as stack:
        if settings.key_was_made:
            stack.enter_context(kept_key(settings.port, settings.key))
        folder = stack.enter_context(runtime_dir())
        decoded_dir = await stack.enter_async_context(
            voice_cache_dir(settings.voices_dir, folder.voices)
        )
        folder = replace(folder, voices=decoded_dir)
        voices = VoiceLibrary(
            settings.voices_dir,
            settings.preloaded_voices_dir,
            decoded_dir,
            settings.max_upload_bytes,
            settings.voice_cache_mb,
        )
        stack.callback(voices.close)
        with suppress(TimeoutError):  # it hangs; the first scan says so
            async with timeout(MAX_CHECK_S):
                await voices.check()
        backends = _new_backends(settings, models, folder, metrics, background)
        await stack.enter_async_context(_running(backends))
        backend: Backend = RoutedBackend(backends) if len(backends) > 1 else backends[0]
        voices.on_change = lambda digests: backend.set_voices(frozenset(digests.values()))
        watching = background.spawn(_watch_voices(voices, backend, settings), "watch voices")
        stack.callback(watching.cancel)
        speech = SpeechService(settings, backend, voices, metrics, threads)
        yield AppState(settings, backend, voices, speech, metrics)
    threads.shutdown(wait=False, cancel_futures=True)


def _new_backends(
    settings: Settings,
    models: Sequence[Model],
    folder: RuntimeDir,
    metrics: Metrics,
    background: BackgroundTasks,
) -> list[LocalBackend]:
    """A backend for each model."""
    if len(models) == 1:
        return [LocalBackend(settings, models[0], folder, metrics, background)]
    backends = []
    for index, (model, prefix) in enumerate(zip(models, _prefixes(models), strict=True)):
        own = replace(folder, channels=folder.channels / str(index))
        own.channels.mkdir(mode=0o700)
        backends.append(
            LocalBackend(settings, model, own, metrics, background, prefix, len(models))
        )
    return backends


def _prefixes(models: Sequence[Model]) -> list[str]:
    """Of the names of each model's workers; engines' classes may have one name and be numbered."""
    labels = [model.label for model in models]
    numbers = [labels[: index + 1].count(label) for index, label in enumerate(labels)]
    return [
        f"{label}-{number}." if number > 1 else f"{label}."
        for label, number in zip(labels, numbers, strict=True)
    ]


@asynccontextmanager
async def _running(backends: Sequence[LocalBackend]) -> AsyncIterator[None]:
    """Start the workers of all models on entry, stop all at once on exit."""
    try:
        for backend in backends:
            backend.start()
        yield
    finally:
        await asyncio.gather(*(backend.stop() for backend in backends))


async def _watch_voices(voices: VoiceLibrary, backend: Backend, settings: Settings) -> None:
    """Scan the voice folders, pass the voices to the backend, then rescan periodically.

    The backend gets those that are found within `FIRST_SCAN_S`, and all others later.
    """
    scanning = asyncio.create_task(voices.scan(), name="first scan of voices")
    try:
        await asyncio.wait([scanning], timeout=FIRST_SCAN_S)
        backend.set_voices(frozenset(voices.snapshot.digests.values()))
        await scanning
    finally:
        scanning.cancel()
    await voices.log_folders()
    for name, voice in settings.voice_aliases.items():
        if voices.find(voice) is None:
            log.warning("VOICE_ALIASES: %s refers to %s, which does not exist", name, voice)
    await voices.watch(WATCH_VOICES_S)
