"""`chatterbox-tts speak`: speech in this process, by the engine and pipeline that a worker runs."""

import asyncio
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, BinaryIO

import msgspec
import typer

from app.cli.console import open_for_writing, progress_bar
from app.core.audio import BYTES_PER_SAMPLE, SAMPLE_RATE
from app.core.engine_config import QueueSizes
from app.core.errors import InvalidRequest, StartupError
from app.core.log import set_up_logging
from app.core.params import MAX_SEED, SynthesisParams
from app.core.process_env import cpu_count, visible_cuda_devices
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
    partial = output.with_name(f".{output.name}.part")
    try:
        with open_for_writing(partial) as file:
            summary = asyncio.run(_synthesize(settings, text, voice, seed, encoder, file))
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
    seed: int | None,
    encoder: "Encoder",
    file: BinaryIO,
) -> str:
    """Load an engine and write its speech to `file`; returns a summary for the terminal."""
    from app.core.devices import detect
    from app.engines.registry import choose_engine, load_engine
    from app.text.cleaning import clean

    text = clean(text)
    name = choose_engine(settings.model, settings.model_path)
    params = settings.synthesis_params()
    if seed is not None:
        params = msgspec.structs.replace(params, seed=seed)
    source = _voice_file(settings, voice) if voice else None
    with progress_bar() as bar:
        task = bar.add_task("loading", total=None)
        device = detect(visible_cuda_devices())[0]
        engine = load_engine(name, settings.engine_config(device.kind, cpu_count(), slots=1))
        try:
            if source and not engine.clones_voices:
                bar.console.print(f"the {engine.name} voice ignores --voice")
            await engine.warm_up()
            prepared = await _prepare_voice(engine, source) if source else engine.default_voice
            bar.update(task, description="speaking")
            timing = await _speak_to_file(
                engine,
                text,
                prepared,
                params,
                settings.queue_sizes(),
                encoder,
                file,
                lambda done, chunks: bar.update(task, completed=done, total=chunks),
            )
        finally:
            await engine.close()
    return f"{timing}, {engine.name} model"


@dataclass
class _Timing:
    """Seconds of work until the first audio and in all, and seconds of audio."""

    first_audio_s: float = 0.0
    total_s: float = 0.0
    audio_s: float = 0.0

    def __str__(self) -> str:
        real_time_factor = self.total_s / self.audio_s if self.audio_s else float("inf")
        return (
            f"{self.audio_s:.2f} s of audio in {self.total_s:.2f} s, "
            f"first audio after {self.first_audio_s * 1000:.0f} ms, "
            f"real-time factor {real_time_factor:.3f}"
        )


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


async def _speak_to_file(
    engine: "Engine",
    text: str,
    voice: "Voice",
    params: SynthesisParams,
    sizes: QueueSizes,
    encoder: "Encoder",
    output: BinaryIO,
    on_chunk: Callable[[int, int], None],
) -> _Timing:
    """Write the speech to `output`; `on_chunk(done, total)` reports text chunks."""
    from app.pipeline.pipeline import Pipeline

    pipeline = Pipeline(engine, sizes)
    timing = _Timing()
    began = perf_counter()
    samples = 0
    pieces: list[bytes] = []

    async def write(pcm: bytes) -> None:
        nonlocal samples
        if not samples:
            timing.first_audio_s = perf_counter() - began
        samples += len(pcm) // BYTES_PER_SAMPLE
        pieces.append(encoder.encode(pcm))

    try:
        await pipeline.run(text, voice, params, write, on_chunk)
    finally:
        pipeline.close()
    pieces.append(encoder.finish())
    output.write(encoder.finalize_file(b"".join(pieces)))
    timing.total_s = perf_counter() - began
    timing.audio_s = samples / SAMPLE_RATE
    return timing
