"""`chatterbox-tts bench serve`, `bench engine` and `bench checkpoint`."""

import asyncio
import json
from dataclasses import asdict
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from app.cli.console import open_for_writing, progress_bar
from app.core.cpu import cpu_count
from app.core.devices import detect
from app.core.errors import StartupError
from app.core.process_env import visible_cuda_devices
from app.engines.chatterbox.variants import VARIANTS
from app.settings import Settings, load_settings

if TYPE_CHECKING:
    from app.bench.engine import Plan

bench = typer.Typer(
    help="Measure a running service, or the engine.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


class Size(StrEnum):
    FULL = "full"
    TINY = "tiny"


class Model(StrEnum):
    CHATTERBOX = "chatterbox"
    TURBO = "turbo"
    NANO = "nano"
    MULTILINGUAL = "multilingual"


class Kind(StrEnum):
    CUDA = "cuda"
    CPU = "cpu"


JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the figures to a JSON file.")]
PlotFile = Annotated[Path | None, typer.Option("--plot", metavar="FILE.png", help="Draw a chart.")]

BENCH_TEXT = "The river carries more sand than any wind over the plain, and takes its time."


@bench.command("serve")
def bench_serve(
    url: Annotated[str | None, typer.Option(help="The running service.")] = None,
    key: Annotated[str | None, typer.Option(help="Its API key; API_KEY by default.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Concurrent clients.")] = 1,
    requests: Annotated[
        int | None, typer.Option(min=1, help="Total, by default 20 without --seconds.")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(min=0, help="Make new requests for that long.")
    ] = None,
    paced: Annotated[
        bool, typer.Option("--paced", help="Play each response to its end before the next request.")
    ] = False,
    form: Annotated[
        str, typer.Option("--format", help="wav, mp3, fmp4, raw_pcm or webm.")
    ] = "raw_pcm",
    text: Annotated[str, typer.Option(help="The text to speak.")] = BENCH_TEXT,
    json_file: JsonFile = None,
) -> None:
    """Measure a running service, whose URL --url gives."""
    from app.bench.load import Target, Workload, check_format

    if url is None:
        raise StartupError(
            "bench serve needs --url with a running service (developers measure the server "
            "alone with: python -m tests.benchmarks.server_overhead)"
        )
    check_format(form, paced=paced)
    if requests is None and seconds is None:
        requests = 20
    workload = Workload({"text": text, "format": form}, concurrency, requests, seconds, paced)
    if key is None:
        key = load_settings(api_key_required=False).api_key.get_secret_value()
    result = asyncio.run(Target.at(url, key).run(workload))
    table = Table("", "", title=url, show_header=False)
    for name, figures in result.rows():
        table.add_row(name, figures)
    Console().print(table)
    if json_file:
        _write_json(json_file, result.as_dict())
    for outcome, message in result.messages.items():
        typer.echo(f"{outcome}: {message}", err=True)
    if not result.succeeded:
        raise typer.Exit(1)


Device = Annotated[Kind | None, typer.Option(help="By default a GPU if there is one.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads, by default all.")]
Rounds = Annotated[
    int, typer.Option(min=0, help="Rounds in turns with the package, 0: without it.")
]
Jobs = Annotated[
    list[int] | None, typer.Option(min=1, help="Also this many jobs at once; repeatable.")
]
Tokens = Annotated[
    int, typer.Option(min=20, max=1000, help="Speech tokens of each job, 25 a second.")
]
LongText = Annotated[bool, typer.Option("--long", help="Also a text of 31 chunks.")]
Compile = Annotated[bool | None, typer.Option("--compile/--no-compile", help="As TORCH_COMPILE.")]


@bench.command("engine")
def bench_engine(
    model: Annotated[Model, typer.Option(help="Which of the models.")] = Model.CHATTERBOX,
    model_path: Annotated[
        str, typer.Option(help="A folder of its weights; random ones by default.")
    ] = "",
    size: Annotated[Size, typer.Option(help="Of random weights.")] = Size.FULL,
    device: Device = None,
    threads: Threads = None,
    rounds: Rounds = 3,
    jobs: Jobs = None,
    tokens: Tokens = 70,
    long_text: LongText = False,
    t3_dtype: Annotated[str | None, typer.Option(help="As TTS_T3_DTYPE.")] = None,
    prompt_seconds: Annotated[int | None, typer.Option(help="As TTS_VOICE_PROMPT_SECONDS.")] = None,
    first_slice: Annotated[int | None, typer.Option(help="As TTS_FIRST_SLICE_TOKENS.")] = None,
    growth: Annotated[float | None, typer.Option(help="As TTS_SLICE_GROWTH.")] = None,
    torch_compile: Compile = None,
    json_file: JsonFile = None,
    picture: PlotFile = None,
) -> None:
    """Measure the Chatterbox engine in turns with the package's own generate, on the same weights.

    Options default to the service's settings on this machine. Random weights of
    full size take 2 to 3.2 GB, kept in the temporary folder, and both programs up
    to 12 GB of memory. Both outputs are compared before any time counts.
    """
    from app.bench.plot import check_matplotlib

    if picture:
        check_matplotlib()
    _check_chatterbox(model, model_path)
    settings = _settings(
        tts_t3_dtype=t3_dtype,
        tts_voice_prompt_seconds=prompt_seconds,
        tts_first_slice_tokens=first_slice,
        tts_slice_growth=growth,
        torch_compile=None if torch_compile is None else str(torch_compile),
    )
    config = settings.engine_config(_kind(device), threads or cpu_count(), slots=max(jobs or [1]))
    config = msgspec.structs.replace(
        config, model_path=model_path, variant=str(model), watermark=True
    )
    from app.bench.engine import Plan  # imports torch

    plan = Plan(config, size is Size.TINY, tokens, rounds, tuple(jobs or ()), long_text)
    _measure(plan, json_file, picture)


def _measure(plan: "Plan", json_file: Path | None, picture: Path | None) -> None:
    from app.bench.engine import measure
    from app.bench.plot import draw

    with progress_bar() as bar:
        task = bar.add_task("starting", total=None)
        report = measure(plan, lambda step: bar.update(task, description=step))
    for table in report.tables():
        Console().print(table)
    if json_file:
        _write_json(json_file, asdict(report))
    if picture:
        with open_for_writing(picture) as file:
            draw(report, file)


@bench.command("checkpoint")
def bench_checkpoint(
    folder: Annotated[Path, typer.Argument(help="Where to make the model's folder.")],
    model: Annotated[Model, typer.Option(help="Which of the models.")] = Model.CHATTERBOX,
) -> None:
    """Write a model of random weights (2 to 3.2 GB), to measure a service without the real ones.

    It speaks noise, as fast as the real one. Each text chunk takes about 4 seconds
    of it, as a sentence of 12 words does.
    """
    _check_chatterbox(model, "")
    from app.bench.model_folder import write_model  # imports torch

    with progress_bar() as bar:
        bar.add_task("writing random weights", total=None)
        write_model(folder, model)
    typer.echo(f"MODEL={model} MODEL_PATH={folder} chatterbox-tts serve")


def _check_chatterbox(model: Model, model_path: str) -> None:
    if not find_spec("torch") or not find_spec("chatterbox"):
        raise StartupError(
            "bench needs Chatterbox's Python packages: "
            "in a clone, pip install -c .ci/constraints.txt '.[chatterbox]'"
        )
    files = VARIANTS[model].needed_files
    if model_path and (
        absent := [name for name in files if not (Path(model_path) / name).exists()]
    ):
        raise StartupError(f"{model_path} lacks {', '.join(absent)}")


def _settings(**options: object) -> Settings:
    """The service's settings, but for options that are given."""
    given = {name: value for name, value in options.items() if value is not None}
    return load_settings(api_key_required=False, **given)


def _kind(wanted: Kind | None) -> str:
    present = detect(visible_cuda_devices())[0].kind
    if wanted is Kind.CUDA and present != wanted:
        raise StartupError("--device cuda: no GPU is visible")
    return wanted or present


def _write_json(path: Path, value: object) -> None:
    with open_for_writing(path) as file:
        file.write(json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n")
