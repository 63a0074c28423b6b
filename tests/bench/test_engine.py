"""`chatterbox-tts bench engine` at tiny size: its figures, and detection of wrong results."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from app.bench import engine_process, upstream
from app.bench.checkpoint import benchmark_checkpoint
from app.bench.child_process import Run, child_process
from app.bench.engine import Plan, compare, run_concurrent, run_round, warm_up
from app.core.engine_config import ChatterboxOptions, EngineConfig
from app.core.errors import EngineFailed
from app.engines.chatterbox.frontend import english
from app.engines.chatterbox.s3gen.solvers import step_times
from app.engines.chatterbox.variants import ENGLISH
from tests.support.service import ROOT

T = TypeVar("T")

TUNING = ChatterboxOptions(first_slice_tokens=20, slice_growth=2.0)
PLAN = Plan(EngineConfig("cpu", 1, "", slots=2, tuning=TUNING), tiny=True, tokens=40, rounds=1)
NOT_THE_SAME = replace(
    PLAN, config=msgspec.structs.replace(PLAN.config, tuning=ChatterboxOptions(t3_dtype="int8"))
)


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    tiny = ["--size", "tiny", "--device", "cpu", "--threads", "1", "--tokens", "40"]
    return subprocess.run(
        [sys.executable, "-m", "app", "bench", "engine", *tiny, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with benchmark_checkpoint("", tiny=True) as folder:
        yield folder


@pytest.fixture(scope="module")
def other(folder: Path) -> Iterator[Run]:
    """The upstream process."""
    with child_process(TQDM_DISABLE="1") as run:
        run(upstream.load, "chatterbox", folder, True, "cpu", 1, PLAN.tokens)
        yield run


@pytest.fixture(scope="module")
def own(folder: Path) -> Iterator[Run]:
    """The engine's process."""
    with child_process() as run:
        run(engine_process.load, msgspec.structs.replace(PLAN.config, model_path=str(folder)), True)
        yield run


def with_wrong_result(run: Run, work: Callable[..., Any], change: Callable[[Any], Any]) -> Run:
    """Return a `run` that changes the result of `work`."""

    def wrong(called: Callable[..., T], *args: object) -> T:
        result = run(called, *args)
        return change(result) if called is work else result

    return wrong


def upper_case(text: str) -> str:
    return text.upper()


def set_steps(steps: int) -> None:
    """Run in the child process, like `set_normaliser`."""
    solver = engine_process._engine._s3gen_scheduler._s3gen.flow.solver  # type: ignore[attr-defined]
    solver.times = step_times(replace(ENGLISH.flow, steps=steps), solver.times.device)


def set_normaliser(normaliser: Callable[[str], str]) -> None:
    english.punc_norm = normaliser


# --- the command ----------------------------------------------------------------------------------


@pytest.mark.heavy
def test_writes_table_json_and_plot(tmp_path: Path) -> None:
    json_file, picture = tmp_path / "figures.json", tmp_path / "picture.png"
    done = bench(
        *("--rounds", "1", "--jobs", "1", "--jobs", "2", "--long", "--prompt-seconds", "1"),
        *("--json", str(json_file), "--plot", str(picture)),
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for part in ("first audio", "flow's solver", "× real time", "text chunk", "random, tiny"):
        assert part in done.stdout
    figures = json.loads(json_file.read_text())
    own, beside = figures["own"], figures["package"]
    assert 0 < own["first_audio_s"]["median"] < own["total_s"]["median"]
    assert beside["total_ratio"]["median"] == pytest.approx(
        own["total_s"]["median"] / beside["total_s"]["median"]
    )
    assert all(seconds["least"] > 0 for seconds in own["stages_s"].values())
    assert len(own["slices_s"]) == 2
    assert beside["difference_db"] < -50
    assert [row["jobs"] for row in figures["at_once"]] == [1, 2]
    assert figures["long_text"]["early_s"] > 0
    assert figures["settings"]["voice_prompt_seconds"] == 1
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.heavy
@pytest.mark.parametrize("model", ["turbo", "nano", "multilingual"])
def test_measures_each_model_beside_the_package(model: str, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    done = bench("--model", model, "--rounds", "1", "--jobs", "2", "--json", str(file))
    assert done.returncode == 0, done.stderr
    assert model in done.stdout
    figures = json.loads(file.read_text())
    beside = figures["package"]
    assert beside["tokens_same"] >= 40
    assert beside["difference_db"] < -50
    assert beside["correlation"]["median"] > 0.4
    parts_s = beside["t3_ms_per_token"]["median"] * 40 / 1000 + beside["s3gen_s"]["median"]
    assert 0.5 < parts_s / beside["total_s"]["median"] < 1
    assert figures["own"]["stages_s"].keys() >= {"T3", "flow's solver", "vocoder", "watermark"}


@pytest.mark.heavy
def test_measures_the_engine_alone() -> None:
    done = bench("--model", "nano", "--rounds", "0")
    assert done.returncode == 0, done.stderr
    assert "generate" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--t3-dtype", "int9"), "TTS_T3_DTYPE"),
        (("--first-slice", "501"), "TTS_FIRST_SLICE_TOKENS"),
        (("--model-path", "nowhere"), "nowhere"),
        (("--model", "turbo", "--model-path", "nowhere"), "t3_turbo_v1.safetensors"),
    ],
)
def test_invalid_option_is_one_line(arguments: tuple[str, ...], said: str) -> None:
    done = bench(*arguments)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("chatterbox-tts: ")
    assert said in line


# --- comparisons -----------------------------------------------------------------------------


@pytest.mark.heavy
def test_engine_equals_upstream(own: Run, other: Run) -> None:
    equality = compare(PLAN, warm_up(PLAN, own).tokens, own, other)
    assert equality["tokens_same"] == PLAN.tokens
    assert equality["difference_db"] < -50
    package = run_round(PLAN, own, other, seed=1)["package"]
    assert package
    assert package["correlation"] > 0.4


@pytest.mark.heavy
def test_detects_flow_with_one_step_less(own: Run, other: Run) -> None:
    own(set_steps, ENGLISH.flow.steps - 1)
    try:
        with pytest.raises(EngineFailed, match=r"S3Gen beside the package's: the waveforms are"):
            compare(PLAN, warm_up(PLAN, own).tokens, own, other)
    finally:
        own(set_steps, ENGLISH.flow.steps)


@pytest.mark.heavy
def test_detects_different_text(own: Run, other: Run) -> None:
    own(set_normaliser, upper_case)
    try:
        with pytest.raises(EngineFailed, match=r"T3 beside the package's: token \d+ of 40 is"):
            compare(PLAN, warm_up(PLAN, own).tokens, own, other)
    finally:
        own(set_normaliser, english.punc_norm)


@pytest.mark.heavy
def test_detects_stream_that_differs_from_its_stages(own: Run, other: Run) -> None:
    other_seed = own(engine_process.run_streamed, "Sound.", 5, PLAN.tokens)
    wrong = with_wrong_result(
        own, engine_process.run_streamed, lambda right: replace(right, audio=other_seed.audio)
    )
    with pytest.raises(EngineFailed, match="the stream beside its own stages"):
        run_round(NOT_THE_SAME, wrong, other, seed=1)


@pytest.mark.heavy
def test_detects_stream_that_differs_from_upstream(own: Run, other: Run) -> None:
    def reversed_audio(right: Any) -> Any:
        return replace(right, audio=right.audio[::-1])

    wrong = with_wrong_result(
        with_wrong_result(own, engine_process.run_streamed, reversed_audio),
        engine_process.run_stages,
        reversed_audio,
    )
    with pytest.raises(EngineFailed, match="the stream beside the package's: the spectra"):
        run_round(PLAN, wrong, other, seed=1)


@pytest.mark.heavy
def test_detects_missing_tokens(own: Run, other: Run) -> None:
    fewer = replace(NOT_THE_SAME, tokens=30)  # of the engine alone
    wrong = with_wrong_result(
        own, engine_process.run_stages, lambda right: replace(right, tokens=right.tokens[:26])
    )
    with pytest.raises(EngineFailed, match="T3: 26 tokens, not 30"):
        run_round(fewer, wrong, other, seed=1)


@pytest.mark.heavy
def test_detects_job_that_depends_on_concurrent_jobs(own: Run) -> None:
    def other_token(right: engine_process.ConcurrentJobs) -> engine_process.ConcurrentJobs:
        right.together[1][7] += 1
        return right

    assert run_concurrent(PLAN, own, 2)["t3_ratio"] > 0
    wrong = with_wrong_result(own, engine_process.run_concurrent, other_token)
    with pytest.raises(EngineFailed, match="job 2 of 2 at once beside itself alone: token 8 "):
        run_concurrent(PLAN, wrong, 2)


@pytest.mark.heavy
def test_end_token_is_disabled(own: Run) -> None:
    """The random model ends after about 100 tokens otherwise."""
    assert len(own(engine_process.run_stages, ["Sound."], 3, 200).tokens) > 180
