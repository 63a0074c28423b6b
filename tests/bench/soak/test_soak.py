"""`bench serve --soak`, for moments: a service in order passes, one that is not is found out."""

import tempfile
from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app.bench.engine import SignalEngine
from app.bench.service import Footprint
from app.bench.soak import soak as soak_module
from app.bench.soak.aftermath import MORE_THREADS, growth
from app.bench.soak.report import Report
from app.cli.main import cli
from app.core.params import SynthesisParams
from app.engines.base import SpeechSlice, TextChunk

FOOTPRINT = Footprint(memory_mb=100, descriptors=35, threads=15, sockets=5)


class MixedUpEngine(SignalEngine):
    """Every fifth voice it is to speak in, it takes for its own."""

    spoken = 0

    def speech_tokens(
        self, chunk: TextChunk, voice: int, params: SynthesisParams
    ) -> AsyncGenerator[SpeechSlice, None]:
        self.spoken += 1
        return super().speech_tokens(chunk, voice + (self.spoken % 5 == 0), params)


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where a soak's folder is made; not pytest's, whose path is too long for sockets."""
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def soak(*options: str) -> Result:
    return CliRunner().invoke(cli, ["bench", "serve", *options])


def test_a_service_in_order_passes_with_one_line_and_leaves_nothing(temporary: Path) -> None:
    done = soak("--soak", "0.06")
    assert done.exit_code == 0, done.output
    [line] = done.stdout.splitlines()
    assert line.startswith("soak of 3.6 s: ")
    assert line.endswith(", 0 violations")
    assert " whole" in line
    assert ", 1 workers killed, " in line
    assert list(temporary.iterdir()) == []


def test_a_service_that_mixes_up_voices_is_found_out_and_its_log_kept(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soak_module, "ENGINE", f"{__name__}:MixedUpEngine")
    done = soak("--soak", "0.02")
    assert done.exit_code == 1
    figures, *violations = done.stdout.splitlines()
    assert not figures.endswith(" 0 violations")
    assert any("is not the audio of this text, seed and voice" in line for line in violations)
    [log] = temporary.glob("*/service.log")
    assert str(log) in done.stderr


@pytest.mark.parametrize("options", [("--soak", "0"), ("--soak", "nan"), ("--soak", "an hour")])
def test_without_a_time_that_makes_sense_it_says_so(options: tuple[str, ...]) -> None:
    refused = soak(*options)
    assert refused.exit_code == 2
    assert "--soak" in refused.stderr


@pytest.mark.parametrize(
    "after",
    [
        replace(FOOTPRINT, memory_mb=111),
        replace(FOOTPRINT, descriptors=38),
        replace(FOOTPRINT, descriptors=32),
        replace(FOOTPRINT, threads=15 + MORE_THREADS + 1),
        replace(FOOTPRINT, sockets=7),
    ],
)
def test_what_has_grown_is_a_violation(after: Footprint) -> None:
    assert len(list(growth(FOOTPRINT, after))) == 1


def test_a_little_more_memory_is_none() -> None:
    assert list(growth(FOOTPRINT, replace(FOOTPRINT, memory_mb=104, descriptors=36))) == []


def test_of_many_violations_twenty_are_shown() -> None:
    report = Report(60, violations=[f"fault {number}" for number in range(25)])
    assert [*report.lines()][1:] == [*(f"fault {number}" for number in range(20)), "… and 5 more"]
