"""`chatterbox-tts speak`: speech in this process, by the engine and pipeline that a worker runs."""

import asyncio
import sys
import tempfile
from math import inf
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import msgspec
import typer

from app.cli.console import open_for_writing, progress_bar
from app.core.audio import BYTES_PER_SAMPLE, SAMPLE_RATE
from app.core.cpu import cpu_count
from app.core.errors import InvalidRequest, StartupError
from app.core.log import set_up_logging
from app.core.params import MAX_SEED
from app.core.process_env import visible_cuda_devices
from app.settings import Settings, load_settings

if TYPE_CHECKING:
    from app.audio.encoder import Encoder
    from app.engines.base import Engine, Voice


def speak(
    text: Annotated[str, typer.Argument(help="What to say; - reads standard input.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File to write: .wav .mp3 .m4a .mp4 .webm .pcm")
    ] = Path("speech.wav"),
    voice: Annotated[
        str | None, typer.Option(help="A voice id, or the path of an audio file.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="As in MODEL, which is the default: turbo, for one.")
    ] = None,
    language: Annotated[
        str | None, typer.Option(help="Its code, such as de; by default DEFAULT_LANGUAGE.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=MAX_SEED, help="Same seed, same speech; else a new one each time."),
    ] = None,
) -> None:
    """Say TEXT into a file, in this process."""
    settings = load_settings(api_key_required=False)
    set_up_logging("ERROR", "speak")
    if text == "-":
        text = sys.stdin.buffer.read().decode(errors="replace")
    encoder = _encoder_for(output)
    if output.is_dir():
        raise InvalidRequest(f"{output} is a folder")
    given = {"seed": seed, "language": language}
    given = {name: value for name, value in given.items() if value is not None}
    partial = output.with_name(f".{output.name}.part")
    try:
        with open_for_writing(partial) as file:
            summary = asyncio.run(_synthesize(settings, text, voice, model, given, encoder, file))
        partial.replace(output)
        typer.echo(f"{output}: {summary}", err=True)
    finally:
        partial.unlink(missing_ok=True)


def _encoder_for(output: Path) -> "Encoder":
    from app.audio.formats import ENCODERS, FORMAT_OF_SUFFIX

    name = FORMAT_OF_SUFFIX.get(output.suffix.lower())
    if name is None:
        raise InvalidRequest(f"{output}: the ending must be one of {' '.join(FORMAT_OF_SUFFIX)}")
    return ENCODERS[name](SAMPLE_RATE)


async def _synthesize(
    settings: Settings,
    text: str,
    voice: str | None,
    model: str | None,
    given: dict[str, Any],
    encoder: "Encoder",
    file: BinaryIO,
) -> str:
    """Load an engine and write its speech to `file`; returns a summary for the terminal.

    `given`: synthesis parameters.
    """
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
        settings.model_files,
    )[0]
    params = msgspec.structs.replace(settings.synthesis_params(chosen.info.defaults), **given)
    source = _voice_file(settings, voice) if voice else None
    with progress_bar() as bar:
        task = bar.add_task("loading", total=None)
        config = settings.engine_config(device.kind, cpu_count(), slots=1)
        engine = load_engine(chosen.engine, chosen.engine_config(config))
        try:
            language = resolve_language(params.language, engine.name, languages_of(engine))
            params = msgspec.structs.replace(params, language=language)
            if source and not engine.clones_voices:
                bar.console.print(f"the {engine.name} voice ignores --voice")
            await engine.warm_up()
            prepared = await _prepare_voice(engine, source) if source else engine.default_voice
            bar.update(task, description="speaking")
            pipeline = Pipeline(engine, settings.queue_sizes())
            recording = _Recording(encoder)
            try:
                await pipeline.run(
                    text,
                    prepared,
                    params,
                    recording.write,
                    lambda done, chunks: bar.update(task, completed=done, total=chunks),
                )
            finally:
                pipeline.close()
            summary = recording.save(file)
        finally:
            await engine.close()
    return f"{summary}, {engine.name} model"


def _voice_file(settings: Settings, voice: str) -> Path:
    folders = (settings.voices_dir, settings.preloaded_voices_dir)
    for path in (*(folder / voice for folder in folders), Path(voice)):
        if path.is_file():
            return path
    looked_in = " or ".join(str(folder.absolute()) for folder in folders)
    raise StartupError(f"no voice {voice}: it is no file, and there is none in {looked_in}")


async def _prepare_voice(engine: "Engine", source: Path) -> "Voice":
    """Clone the voice in an audio file. Raises `UnusableAudio`."""
    from app.audio.sandbox import decode_file, load_decoded

    with tempfile.TemporaryDirectory() as folder:
        decoded = Path(folder) / "voice"
        await decode_file(source, decoded)
        samples, rate = load_decoded(decoded)
    return await engine.prepare_voice(samples, rate)


class _Recording:
    """Encodes and times the audio of a job, which begins now."""

    def __init__(self, encoder: "Encoder") -> None:
        self._encoder = encoder
        self._pieces: list[bytes] = []
        self._samples = 0
        self._began = perf_counter()
        self._first_audio_s = 0.0

    async def write(self, pcm: bytes) -> None:
        if not self._samples:
            self._first_audio_s = perf_counter() - self._began
        self._samples += len(pcm) // BYTES_PER_SAMPLE
        self._pieces.append(self._encoder.encode(pcm))

    def save(self, file: BinaryIO) -> str:
        """Write the file and return how long everything took."""
        self._pieces.append(self._encoder.finish())
        file.write(self._encoder.finalize_file(b"".join(self._pieces)))
        total_s, audio_s = perf_counter() - self._began, self._samples / SAMPLE_RATE
        real_time_factor = total_s / audio_s if audio_s else inf
        return (
            f"{audio_s:.2f} s of audio in {total_s:.2f} s, "
            f"first audio after {self._first_audio_s * 1000:.0f} ms, "
            f"real-time factor {real_time_factor:.3f}"
        )
