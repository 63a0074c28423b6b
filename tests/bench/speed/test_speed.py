"""`chatterbox-tts bench engine` at tiny size: its figures, and what it does about wrong answers."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import pytest

from app.bench.speed import engine, package
from app.bench.speed.process import Run, process
from app.bench.speed.speed import Plan, compare, compete, take_turns, warm_up
from app.bench.speed.subject import checkpoint
from app.core.engine_config import ChatterboxOptions, EngineConfig
from app.core.errors import EngineFailed
from app.engines.chatterbox.frontend import english
from app.engines.chatterbox.s3gen import flow
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
    with checkpoint("", tiny=True) as folder:
        yield folder


@pytest.fixture(scope="module")
def other(folder: Path) -> Iterator[Run]:
    """The package's process."""
    with process(TQDM_DISABLE="1") as run:
        run(package.load, folder, True, "cpu", 1, PLAN.tokens)
        yield run


@pytest.fixture(scope="module")
def own(folder: Path) -> Iterator[Run]:
    """The engine's process."""
    with process() as run:
        run(engine.load, msgspec.structs.replace(PLAN.config, model_path=str(folder)), True)
        yield run


def altered(run: Run, work: Callable[..., Any], change: Callable[[Any], Any]) -> Run:
    """A process that gets `work` wrong."""

    def wrong(called: Callable[..., T], *args: object) -> T:
        result = run(called, *args)
        return change(result) if called is work else result

    return wrong


def say_it_louder(text: str) -> str:
    return text.upper()


def set_steps(steps: int) -> None:
    """In the process that it is called in, as the one below."""
    flow.STEPS = steps


def set_normaliser(normaliser: Callable[[str], str]) -> None:
    english.punc_norm = normaliser


# --- The command ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_all_is_measured_shown_kept_and_drawn(tmp_path: Path) -> None:
    figures, picture = tmp_path / "figures.json", tmp_path / "picture.png"
    done = bench(
        *("--rounds", "1", "--jobs", "1", "--jobs", "2", "--long", "--prompt-seconds", "1"),
        *("--json", str(figures), "--plot", str(picture)),
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for part in ("first audio", "flow's solver", "× real time", "text chunk", "random, tiny"):
        assert part in done.stdout
    told = json.loads(figures.read_text())
    own, beside = told["own"], told["package"]
    assert 0 < own["first_audio_s"]["median"] < own["total_s"]["median"]
    assert beside["total_ratio"]["median"] == pytest.approx(
        own["total_s"]["median"] / beside["total_s"]["median"]
    )
    assert all(seconds["least"] > 0 for seconds in own["stages_s"].values())
    assert len(own["slices_s"]) == 2
    assert beside["difference_db"] < -50
    assert [row["jobs"] for row in told["at_once"]] == [1, 2]
    assert told["long_text"]["early_s"] > 0
    assert told["settings"]["voice_prompt_seconds"] == 1
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--t3-dtype", "int9"), "TTS_T3_DTYPE"),
        (("--first-slice", "501"), "TTS_FIRST_SLICE_TOKENS"),
        (("--model-path", "nowhere"), "nowhere"),
    ],
)
def test_what_cannot_be_measured_is_one_line(arguments: tuple[str, ...], said: str) -> None:
    done = bench(*arguments)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("chatterbox-tts: ")
    assert said in line


# --- What is compared -----------------------------------------------------------------------------


def test_the_engine_says_what_the_package_says(own: Run, other: Run) -> None:
    tokens_same, difference_db = compare(PLAN, warm_up(PLAN, own).tokens, own, other)
    assert tokens_same == PLAN.tokens
    assert difference_db < -50
    turn = take_turns(PLAN, own, other, seed=1)
    assert turn.correlation is not None
    assert turn.correlation > 0.4


def test_a_flow_with_one_step_less_is_found_out(own: Run, other: Run) -> None:
    own(set_steps, 9)
    try:
        with pytest.raises(EngineFailed, match=r"S3Gen beside the package's: the waveforms are"):
            compare(PLAN, warm_up(PLAN, own).tokens, own, other)
    finally:
        own(set_steps, flow.STEPS)


def test_another_text_is_found_out(own: Run, other: Run) -> None:
    own(set_normaliser, say_it_louder)
    try:
        with pytest.raises(EngineFailed, match=r"T3 beside the package's: token \d+ of 40 is"):
            compare(PLAN, warm_up(PLAN, own).tokens, own, other)
    finally:
        own(set_normaliser, english.punc_norm)


def test_a_stream_that_says_something_else_is_found_out(own: Run, other: Run) -> None:
    heard = own(engine.speak, "Sound.", 5, PLAN.tokens)
    wrong = altered(own, engine.speak, lambda right: replace(right, pcm=heard.pcm))
    with pytest.raises(EngineFailed, match="the stream beside its own stages"):
        take_turns(NOT_THE_SAME, wrong, other, seed=1)


def test_a_stream_that_is_wrong_in_its_stages_too_is_found_out(own: Run, other: Run) -> None:
    def reversed_pcm(right: Any) -> Any:
        return replace(right, pcm=np.frombuffer(right.pcm, "<i2")[::-1].tobytes())

    wrong = altered(altered(own, engine.speak, reversed_pcm), engine.dissect, reversed_pcm)
    with pytest.raises(EngineFailed, match="the stream beside the package's: the spectra"):
        take_turns(PLAN, wrong, other, seed=1)


def test_too_few_tokens_are_found_out_whatever_they_are(own: Run, other: Run) -> None:
    fewer = replace(NOT_THE_SAME, tokens=30)  # of the engine alone
    wrong = altered(own, engine.dissect, lambda right: replace(right, tokens=right.tokens[:26]))
    with pytest.raises(EngineFailed, match="T3: 26 tokens, not 30"):
        take_turns(fewer, wrong, other, seed=1)


def test_a_job_that_depends_on_its_company_is_found_out(own: Run) -> None:
    def other_token(right: engine.Together) -> engine.Together:
        right.together[1][7] += 1
        return right

    assert compete(PLAN, own, 2).t3_ratio > 0
    wrong = altered(own, engine.compete, other_token)
    with pytest.raises(EngineFailed, match="job 2 of 2 at once beside itself alone: token 8 of 40"):
        compete(PLAN, wrong, 2)


def test_the_end_does_not_come_by_itself(own: Run) -> None:
    """The random model's would after about 100 tokens."""
    assert len(own(engine.dissect, ["Sound."], 3, 200).tokens) > 180
