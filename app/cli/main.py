"""The command line: `chatterbox-tts serve | speak | voices | models | bench`."""

import asyncio
import json
import logging
import shutil
import sys
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from app import __version__
from app.core.audio import SAMPLE_RATE
from app.core.engine_config import EngineConfig
from app.core.errors import InvalidRequest, ServiceError, StartupError
from app.core.log import set_up_logging
from app.core.process_env import cpu_count, visible_cuda_devices
from app.model_files import download as weights
from app.model_files import manifest
from app.settings import Settings, load_settings, unknown_names

if TYPE_CHECKING:
    from app.bench.load import Load

log = logging.getLogger(__name__)

cli = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
voices = typer.Typer(help="The voices in the voice folders.", invoke_without_command=True)
models = typer.Typer(help="The Chatterbox model in MODEL_PATH.", invoke_without_command=True)
bench = typer.Typer(help="Measuring the service, and trying it hard.", no_args_is_help=True)
cli.add_typer(voices, name="voices")
cli.add_typer(models, name="models")
cli.add_typer(bench, name="bench")


class Size(StrEnum):
    FULL = "full"
    TINY = "tiny"


class Kind(StrEnum):
    CUDA = "cuda"
    CPU = "cpu"


LONGEST_SOAK_MINUTES = 1440
BENCH_TEXT = "The river carries more sand than any wind over the plain, and takes its time."

FORMAT_OF_ENDING = {
    ".wav": "wav",
    ".mp3": "mp3",
    ".mp4": "fmp4",
    ".m4a": "fmp4",
    ".webm": "webm",
    ".pcm": "raw_pcm",
}


def main() -> None:
    """Run a command; what cannot be done is one line on standard error and a non-zero exit."""
    try:
        cli()
    except (StartupError, ServiceError) as error:
        print(f"chatterbox-tts: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(2 if isinstance(error, StartupError) else 1)
    except KeyboardInterrupt:
        print("chatterbox-tts: stopped", file=sys.stderr)  # noqa: T201
        sys.exit(130)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"chatterbox-tts {__version__}")
        raise typer.Exit


@cli.callback()
def service(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Speech in any cloned voice, streamed while it is being generated."""


@cli.command()
def serve() -> None:
    """Start the service; all its settings come from the environment and `.env`."""
    from app.engines.registry import choose_engine
    from app.server.main import serve as serve_http

    settings = load_settings(api_key_required=True)
    set_up_logging(settings.effective_log_level, "master")
    for warning in unknown_names():
        log.warning("%s", warning)
    asyncio.run(serve_http(settings, choose_engine(settings.model, settings.model_path)))


@cli.command()
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
        typer.Option(
            min=0, max=2**32 - 1, help="Same seed, same speech; else a new one each time."
        ),
    ] = None,
) -> None:
    """Say TEXT into a file, in this process."""
    settings = load_settings(api_key_required=False)
    set_up_logging("ERROR", "speak")
    if text == "-":
        text = sys.stdin.buffer.read().decode(errors="replace")
    ending = output.suffix.lower()
    if ending not in FORMAT_OF_ENDING:
        raise InvalidRequest(f"{output}: the ending must be one of {' '.join(FORMAT_OF_ENDING)}")
    if output.is_dir():
        raise InvalidRequest(f"{output} is a folder")
    partial = output.with_name(f".{output.name}.part")
    try:
        with _writable(partial) as file:
            form = FORMAT_OF_ENDING[ending]
            summary = asyncio.run(_speak(settings, text, voice, seed, form, file))
        partial.replace(output)
        typer.echo(f"{output}: {summary}", err=True)
    finally:
        partial.unlink(missing_ok=True)


async def _speak(
    settings: Settings, text: str, voice: str | None, seed: int | None, form: str, file: BinaryIO
) -> str:
    """Returns how it went, in words."""
    from app.audio.encoder import ENCODERS
    from app.cli.synthesize import speak_to_file, voice_from_file
    from app.core.devices import detect
    from app.engines.registry import choose_engine, load_engine
    from app.text.cleaning import clean

    text = clean(text)
    name = choose_engine(settings.model, settings.model_path)
    params = settings.synthesis_params()
    if seed is not None:
        params = msgspec.structs.replace(params, seed=seed)
    source = _voice_file(settings, voice) if voice else None
    bar = _progress_bar()
    with bar:
        task = bar.add_task("loading", total=None)
        device = detect(visible_cuda_devices())[0]
        engine = load_engine(name, settings.engine_config(device.kind, cpu_count(), slots=1))
        try:
            if source and not engine.clones_voices:
                bar.console.print(f"the {engine.name} voice ignores --voice")
            await engine.warm_up()
            prepared = await voice_from_file(engine, source) if source else engine.default_voice
            bar.update(task, description="speaking")
            timing = await speak_to_file(
                engine,
                text,
                prepared,
                params,
                settings.queue_sizes(),
                ENCODERS[form](SAMPLE_RATE),
                file,
                lambda done, chunks: bar.update(task, completed=done, total=chunks),
            )
        finally:
            await engine.close()
    return (
        f"{timing.audio_s:.2f} s of audio in {timing.total_s:.2f} s, "
        f"first audio after {timing.first_audio_s * 1000:.0f} ms, "
        f"real-time factor {timing.real_time_factor:.3f}, {engine.name} model"
    )


@voices.callback()
def list_voices(context: typer.Context) -> None:
    """List the voices, and which folder each is in."""
    if context.invoked_subcommand:
        return
    settings = load_settings(api_key_required=False)
    table = Table("voice_id", "folder", "size")
    from app.voices.folder import VoiceFolder, checked_voice_id

    looked_in = []
    for folder in map(VoiceFolder, (settings.voices_dir, settings.preloaded_voices_dir)):
        try:
            files = sorted(folder.files().items())
        except OSError as error:
            raise StartupError(f"cannot read {folder.path}: {error.strerror}") from None
        trouble = folder.trouble(written=False)
        looked_in.append(f"{folder.path.absolute()}{trouble and f' ({trouble})'}")
        for path, signature in files:
            try:
                checked_voice_id(path.name)
            except InvalidRequest:
                continue
            table.add_row(path.name, str(folder.path), f"{signature.size:,} B")
    Console().print(table)
    typer.echo(f"looked in {' and '.join(looked_in)}")


@models.callback()
def show_models(context: typer.Context) -> None:
    """Show which files of the model are there."""
    if context.invoked_subcommand:
        return
    settings = load_settings(api_key_required=False)
    table = Table("file", "size", title=f"{manifest.ENGLISH.repository} in {settings.model_path}")
    for file in manifest.inventory(settings.model_path):
        table.add_row(file.name, "missing" if file.size is None else f"{file.size:,}")
    Console().print(table)
    if manifest.missing(settings.model_path):
        Console().print("fetch what is missing: chatterbox-tts models download")


@models.command()
def download() -> None:
    """Fetch the weights from the Hugging Face hub into MODEL_PATH."""
    settings = load_settings(api_key_required=False)
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    )
    with bar:
        tasks = {name: bar.add_task(name, total=None) for name in manifest.ENGLISH.files}
        weights.download(
            settings.model_path,
            lambda name, done, total: bar.update(tasks[name], completed=done, total=total),
        )


@bench.command("serve")
def bench_serve(
    soak_minutes: Annotated[
        float | None,
        typer.Option("--soak", metavar="MINUTES", help="Misuse a service for that long."),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Of a soak: the same seed, the same clients.")
    ] = 0,
    url: Annotated[str | None, typer.Option(help="A running service, to be measured.")] = None,
    key: Annotated[str | None, typer.Option(help="Its key; without it, API_KEY is read.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Clients at once.")] = 1,
    requests: Annotated[
        int | None, typer.Option(min=1, help="In all, 20 without --seconds.")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(min=0, help="Make new requests for that long.")
    ] = None,
    paced: Annotated[
        bool, typer.Option("--paced", help="Clients hear to the end before they ask again.")
    ] = False,
    form: Annotated[
        str, typer.Option("--format", help="wav, mp3, fmp4, raw_pcm or webm.")
    ] = "raw_pcm",
    text: Annotated[str, typer.Option(help="What is to be said.")] = BENCH_TEXT,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="A file for the figures, for machines.")
    ] = None,
) -> None:
    """Measure the service: with --url a running one, else the server alone, with no speech to make.

    With --soak, a service of its own is used, misused and its workers are killed, then checked.
    """
    if soak_minutes is not None and url is not None:
        raise typer.BadParameter("--soak has a service of its own", param_hint="--url")
    if soak_minutes is not None:
        _soak(soak_minutes, seed)
    elif url is None:
        _measure_alone(json_file)
    else:
        from app.bench.load import Load, check_format

        check_format(form, paced=paced)
        if requests is None and seconds is None:
            requests = 20
        asked = {"text": text, "format": form}
        load = Load(asked, concurrency, requests, seconds, paced)
        if key is None:
            key = load_settings(api_key_required=False).api_key.get_secret_value()
        _load(url, key, load, json_file)


@bench.command("engine")
def bench_engine(
    model_path: Annotated[
        str, typer.Option(help="A folder of weights; without it they are random.")
    ] = "",
    size: Annotated[Size, typer.Option(help="Of random weights.")] = Size.FULL,
    device: Annotated[Kind | None, typer.Option(help="A GPU if there is one.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Of the CPU, by default all.")] = cpu_count(),
    rounds: Annotated[
        int, typer.Option(min=0, help="In turns with the package; 0: without it.")
    ] = 3,
    jobs: Annotated[
        list[int] | None, typer.Option(min=1, help="Also so many at once; may be repeated.")
    ] = None,
    tokens: Annotated[
        int, typer.Option(min=20, max=1000, help="Of speech, 25 a second, in each job.")
    ] = 70,
    long_text: Annotated[bool, typer.Option("--long", help="Also a text of 31 chunks.")] = False,
    t3_dtype: Annotated[str | None, typer.Option(help="As TTS_T3_DTYPE.")] = None,
    prompt_seconds: Annotated[int | None, typer.Option(help="As TTS_VOICE_PROMPT_SECONDS.")] = None,
    first_slice: Annotated[int | None, typer.Option(help="As TTS_FIRST_SLICE_TOKENS.")] = None,
    growth: Annotated[float | None, typer.Option(help="As TTS_SLICE_GROWTH.")] = None,
    torch_compile: Annotated[
        bool | None, typer.Option("--compile/--no-compile", help="As TORCH_COMPILE.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="A file for the figures, for machines.")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE.png", help="A file for a picture.")
    ] = None,
) -> None:
    """Measure the Chatterbox engine in turns with the package's own generate, on the same weights.

    What is not given is as the service would have it here. Random weights
    of full size take 3.2 GB in the temporary folder, where they are kept,
    and both programs 12 GB of memory. That they say the same is checked
    first.
    """
    from app.bench.speed.picture import check_matplotlib, draw

    if picture:
        check_matplotlib()
    if model_path and (absent := manifest.missing(Path(model_path))):
        raise StartupError(f"{model_path} lacks {', '.join(absent)}")
    overrides = {
        "tts_t3_dtype": t3_dtype,
        "tts_voice_prompt_seconds": prompt_seconds,
        "tts_first_slice_tokens": first_slice,
        "tts_slice_growth": growth,
        "torch_compile": None if torch_compile is None else str(torch_compile),
    }
    settings = load_settings(
        api_key_required=False,
        **{name: value for name, value in overrides.items() if value is not None},
    )
    kind = _kind(device)
    config = EngineConfig(
        kind,
        threads,
        model_path,
        slots=max(jobs or [1]),
        torch_compile=settings.compiles_for(kind),
        tuning=settings.tuning(kind),
    )
    from app.bench.speed.speed import Plan, measure  # which loads torch
    from app.bench.speed.tables import tables

    plan = Plan(config, size is Size.TINY, tokens, rounds, tuple(jobs or ()), long_text)
    with _progress_bar() as bar:
        task = bar.add_task("starting", total=None)
        report = measure(plan, lambda what: bar.update(task, description=what))
    for table in tables(report):
        Console().print(table)
    if json_file:
        _write_json(json_file, report.told())
    if picture:
        with _writable(picture) as file:
            draw(report, file)


def _kind(wanted: "Kind | None") -> str:
    """Of the device to be used, "cuda" or "cpu"."""
    from app.core.devices import detect

    present = detect(visible_cuda_devices())[0].kind
    if wanted is Kind.CUDA and present != wanted:
        raise StartupError("--device cuda: no GPU is visible")
    return wanted or present


def _soak(minutes: float, seed: int) -> None:
    from app.bench.soak.soak import soak

    if not 0 < minutes <= LONGEST_SOAK_MINUTES:  # not so for nan, either
        raise typer.BadParameter(f"give 0 to {LONGEST_SOAK_MINUTES} minutes", param_hint="--soak")
    folder = Path(tempfile.mkdtemp(prefix="tts-soak-"))
    with _progress_bar() as bar:
        task = bar.add_task("soaking", total=60 * minutes)
        try:
            report = asyncio.run(
                soak(minutes, seed, folder, lambda over_s: bar.update(task, completed=over_s))
            )
        except KeyboardInterrupt:
            shutil.rmtree(folder)
            raise
    for line in report.lines():
        typer.echo(line)
    if report.violations:
        typer.echo(f"the service's log: {folder / 'service.log'}", err=True)
        raise typer.Exit(1)
    shutil.rmtree(folder)


def _load(url: str, key: str, load: "Load", json_file: Path | None) -> None:
    from app.bench.load import Subject

    result = asyncio.run(Subject.at(url, key).bear(load))
    table = Table("", "", title=url, show_header=False)
    for name, figures in result.rows():
        table.add_row(name, figures)
    Console().print(table)
    if json_file:
        _write_json(json_file, result.told())
    for outcome, message in result.messages.items():
        typer.echo(f"{outcome}: {message}", err=True)
    if not result.whole:
        raise typer.Exit(1)


def _measure_alone(json_file: Path | None) -> None:
    from app.bench.alone import Effort, measure

    with tempfile.TemporaryDirectory(prefix="tts-bench-") as folder, _progress_bar() as bar:
        task = bar.add_task("starting", total=None)
        figures = asyncio.run(
            measure(Path(folder), Effort(), lambda what: bar.update(task, description=what))
        )
    table = Table("", "measured", "", "target", "", title="The server alone")
    for figure in figures:
        told = "" if figure.target is None else f"{'≥' if figure.least else '≤'} {figure.target:g}"
        mark = {None: "", True: "met", False: "missed"}[figure.met]
        table.add_row(figure.name, f"{figure.value:.3g}", figure.unit, told, mark)
    Console().print(table)
    if json_file:
        _write_json(json_file, [figure.told() for figure in figures])


def _write_json(path: Path, told: object) -> None:
    with _writable(path) as file:
        file.write(json.dumps(told, indent=2, ensure_ascii=False).encode() + b"\n")


def _progress_bar() -> Progress:
    """On standard error, if that is a terminal."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f}%"),
        console=console,
        disable=not console.is_terminal,
    )


def _voice_file(settings: Settings, voice: str) -> Path:
    folders = (settings.voices_dir, settings.preloaded_voices_dir)
    for path in (*(folder / voice for folder in folders), Path(voice)):
        if path.is_file():
            return path
    looked_in = " or ".join(str(folder.absolute()) for folder in folders)
    raise StartupError(f"no voice {voice}: it is no file, and there is none in {looked_in}")


def _writable(path: Path) -> BinaryIO:
    try:
        return path.open("wb")
    except OSError as error:
        raise StartupError(f"cannot write {path.parent}: {error.strerror}") from None
