"""Speech in this process, by the engine and pipeline that a worker runs."""

import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.cli.console import progress_bar
from app.cli.output import Output
from app.cli.terms import in_options
from app.cli.voice_files import find_voice_file
from app.core.cpu import cpu_count
from app.core.params import SynthesisParams
from app.core.process_env import visible_cuda_devices
from app.settings import Settings

if TYPE_CHECKING:
    from app.core.model import Model
    from app.engines.base import Engine, Voice


async def speak_here(
    settings: Settings, request: dict[str, Any], out: Output, *, quiet: bool
) -> str:
    """Load a model and give its speech to `out`; returns what it is.

    `request`: as for the API; its `voice_id` may also be the path of a recording.
    """
    from app.core.devices import detect
    from app.core.model import ModelInfo
    from app.engines.registry import load_engine
    from app.speech.options import SpeechOptions, validated
    from app.speech.parameters import RequestedSpeech, complete
    from app.text.cleaning import clean
    from app.voices.folder import digest_of
    from app.voices.language import language_of_voice

    parameters = dict(request)
    text = clean(parameters.pop("text"), markup=settings.tts_strip_markup)
    voice, model = parameters.pop("voice_id", None), parameters.pop("model", None)
    device = detect(visible_cuda_devices())[0].kind
    chosen = _chosen(settings, model, device)
    options = validated(SpeechOptions, parameters)
    defaults = settings.synthesis_params(chosen.info.defaults)
    source = find_voice_file(settings, voice) if voice else None
    voice_id = source.name if source else None
    voice_language = language_of_voice(source.name, digest_of(str(source))) if source else None
    with progress_bar(quiet=quiet) as bar:
        task = bar.add_task("loading the model", total=None)
        config = settings.engine_config(device, cpu_count(), slots=1)
        engine = load_engine(chosen.engine, chosen.engine_config(config))
        try:
            info = ModelInfo.of(engine)
            requested = RequestedSpeech(options, voice_id, voice_language, text)
            params, notice = complete(requested, defaults, info)
            if notice and not quiet:
                said = f"chatterbox-tts: {in_options(notice)}"
                bar.console.print(said, markup=False, soft_wrap=True)
            await engine.warm_up()
            prepared = await _prepare_voice(engine, source) if source else engine.default_voice
            bar.update(task, description="speaking")

            def show(done: int, chunks: int) -> None:
                bar.update(task, completed=done, total=chunks)

            await _run(settings, engine, (text, prepared, params), out, show)
        finally:
            await engine.close()
    return f"{engine.name} model, loaded for this"


async def _run(
    settings: Settings,
    engine: "Engine",
    job: tuple[str, "Voice", SynthesisParams],
    out: Output,
    show: Callable[[int, int], None],
) -> None:
    from app.pipeline.pipeline import Pipeline

    async def emit(pcm: bytes) -> None:
        await asyncio.to_thread(out.write, pcm)  # a player takes it at the pace of speech

    out.start()
    pipeline = Pipeline(engine, settings.queue_sizes())
    try:
        await pipeline.run(*job, emit, show)
    finally:
        pipeline.close()


def _chosen(settings: Settings, model: str | None, device: str) -> "Model":
    from app.engines.selection import choose_models

    files = settings.model_files
    return choose_models(model or settings.model, settings.model_path, device, files)[0]


async def _prepare_voice(engine: "Engine", source: Path) -> "Voice":
    """Clone the voice in an audio file. Raises `UnusableAudio`."""
    from app.audio.sandbox import decode_file, load_decoded

    with tempfile.TemporaryDirectory() as folder:
        decoded = Path(folder) / "voice"
        await decode_file(source, decoded)
        samples, rate = load_decoded(decoded)
    return await engine.prepare_voice(samples, rate)
