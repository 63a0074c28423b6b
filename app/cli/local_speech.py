"""Speech in this process, by the engine and pipeline that a worker runs."""

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from app.cli.console import progress_bar
from app.cli.output import Output
from app.cli.voice_files import find_voice_file
from app.core.cpu import cpu_count
from app.core.process_env import visible_cuda_devices
from app.settings import Settings

if TYPE_CHECKING:
    from app.engines.base import Engine, Voice


async def speak_here(
    settings: Settings,
    text: str,
    voice: str | None,
    model: str | None,
    parameters: dict[str, Any],
    out: Output,
    *,
    quiet: bool,
) -> str:
    """Load a model and give its speech to `out`; return the model's name."""
    from app.core.devices import detect
    from app.engines.languages import languages_of, resolve_language
    from app.engines.registry import load_engine
    from app.engines.selection import choose_models
    from app.pipeline.pipeline import Pipeline
    from app.text.cleaning import clean

    text = clean(text, markup=settings.tts_strip_markup)
    device = detect(visible_cuda_devices())[0]
    chosen = choose_models(
        model or settings.model,
        settings.model_path,
        device.kind,
        settings.model_files("multilingual"),
    )[0]
    params = msgspec.structs.replace(settings.synthesis_params(chosen.info.defaults), **parameters)
    source = find_voice_file(settings, voice) if voice else None
    with progress_bar(quiet=quiet) as bar:
        task = bar.add_task("loading the model", total=None)
        config = settings.engine_config(device.kind, cpu_count(), slots=1)
        engine = load_engine(chosen.engine, chosen.engine_config(config))
        try:
            language = resolve_language(params.language, engine.name, languages_of(engine))
            params = msgspec.structs.replace(params, language=language)
            if not quiet:
                for ignored in _ignored(engine, source, chosen.info.unused, parameters):
                    bar.console.print(f"the {engine.name} voice ignores {ignored}", markup=False)
            await engine.warm_up()
            prepared = await _prepare_voice(engine, source) if source else engine.default_voice
            bar.update(task, description="speaking")
            out.start()

            async def emit(pcm: bytes) -> None:
                await asyncio.to_thread(out.write, pcm)  # a player takes it at the pace of speech

            pipeline = Pipeline(engine, settings.queue_sizes())
            try:
                await pipeline.run(
                    text,
                    prepared,
                    params,
                    emit,
                    lambda done, chunks: bar.update(task, completed=done, total=chunks),
                )
            finally:
                pipeline.close()
        finally:
            await engine.close()
    return engine.name


def _ignored(
    engine: "Engine", source: Path | None, unused: tuple[str, ...], parameters: dict[str, Any]
) -> list[str]:
    voice = ["--voice"] if source and not engine.clones_voices else []
    return voice + [f"--{name.replace('_', '-')}" for name in unused if name in parameters]


async def _prepare_voice(engine: "Engine", source: Path) -> "Voice":
    """Clone the voice in an audio file. Raises `UnusableAudio`."""
    from app.audio.sandbox import decode_file, load_decoded

    with tempfile.TemporaryDirectory() as folder:
        decoded = Path(folder) / "voice"
        await decode_file(source, decoded)
        samples, rate = load_decoded(decoded)
    return await engine.prepare_voice(samples, rate)
