"""`chatterbox-tts bench serve` and `bench engine`."""

import asyncio
import json
import shutil
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from app.cli.console import open_for_writing, progress_bar
from app.core.engine_config import EngineConfig
from app.core.errors import StartupError
from app.core.process_env import cpu_count, visible_cuda_devices
from app.model_files import download as weights
from app.settings import load_settings

if TYPE_CHECKING:
    from app.bench.load import Load

bench = typer.Typer(help="Measuring the service, and trying it hard.", no_args_is_help=True)


class Size(StrEnum):
    FULL = "full"
    TINY = "tiny"


class Kind(StrEnum):
    CUDA = "cuda"
    CPU = "cpu"


LONGEST_SOAK_MINUTES = 1440
BENCH_TEXT = "The river carries more sand than any wind over the plain, and takes its time."


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
    if model_path and (absent := weights.missing(Path(model_path))):
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
    with progress_bar() as bar:
        task = bar.add_task("starting", total=None)
        report = measure(plan, lambda what: bar.update(task, description=what))
    for table in tables(report):
        Console().print(table)
    if json_file:
        _write_json(json_file, report.told())
    if picture:
        with open_for_writing(picture) as file:
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
    with progress_bar() as bar:
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

    with tempfile.TemporaryDirectory(prefix="tts-bench-") as folder, progress_bar() as bar:
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
    with open_for_writing(path) as file:
        file.write(json.dumps(told, indent=2, ensure_ascii=False).encode() + b"\n")
