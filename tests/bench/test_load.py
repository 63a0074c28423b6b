"""`bench serve --url` with short workloads."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app.bench.load import Percentiles
from app.cli import main as cli
from tests.support.service import API_KEY, Service, free_port, running_service


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("load")
    with running_service(folder, MAX_QUEUED_REQUESTS=0) as service:
        yield service


def bench(service: Service, *options: str) -> Result:
    given = ["--url", service.url, "--key", API_KEY, *options]
    return CliRunner().invoke(cli.cli, ["bench", "serve", *given])


def test_writes_table_and_json(service: Service, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    done = bench(service, "--requests", "5", "--text", "audio5", "--json", str(file))
    assert done.exit_code == 0, done.output
    assert "5 in " in done.stdout
    assert "first audible sample" in done.stdout
    figures = json.loads(file.read_text())
    assert figures["outcomes"] == {"200": 5}
    assert figures["audio_s"] == pytest.approx(5 * 5 * 0.04)
    assert 0 < figures["first_byte_ms"]["p50"] <= figures["first_byte_ms"]["p99"]
    assert figures["first_byte_ms"]["p50"] <= figures["first_audible_ms"]["p50"]
    factor, total_ms = figures["real_time_factor"], figures["total_ms"]
    assert factor["p50"] == pytest.approx(total_ms["p50"] / 1000 / (5 * 0.04))
    assert "real-time factor" in done.stdout
    assert figures["cpu_s"].keys() == {"master", "workers"}


@pytest.mark.timed
def test_counts_underruns_of_a_slow_service(service: Service, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    text = "audio5 sleep0.5 audio5"
    done = bench(service, "--paced", "--requests", "1", "--text", text, "--json", str(file))
    assert done.exit_code == 0, done.output
    figures = json.loads(file.read_text())
    assert figures["underruns"] == 1
    assert figures["underrun_s"] == pytest.approx(0.3, abs=0.15)
    assert figures["seconds"] > 0.4 + figures["underrun_s"]


def test_counts_errors_by_code(service: Service) -> None:
    done = bench(service, "--requests", "3", "--concurrency", "3", "--text", "sleep0.3 audio1")
    assert done.exit_code == 0, done.output
    assert "1 200" in done.stdout
    assert "2 429 queue_full" in done.stdout
    nothing = bench(service, "--requests", "2", "--text", " ")
    assert nothing.exit_code == 1
    assert "2 400 empty_text" in nothing.stdout
    assert nothing.stderr == "400 empty_text: There is nothing in this text that can be spoken.\n"


@pytest.mark.timed
def test_ends_after_seconds(service: Service) -> None:
    done = bench(service, "--seconds", "0.2", "--text", "audio1")
    assert done.exit_code == 0, done.output
    assert " in 0.2" in done.stdout


@pytest.mark.parametrize(("key", "reason"), [("", "missing"), ("wrong", "wrong:")])
def test_wrong_key_is_one_line_that_names_the_option(
    service: Service,
    key: str,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = only_line(("--url", service.url, "--key", key), monkeypatch, capsys)
    assert f"The API key is {reason}" in line
    assert line.endswith("Here, --key or API_KEY gives it.")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--url", "http://there", "--format", "oga"), "'oga'; there are wav, mp3, fmp4, "),
        (("--url", f"http://127.0.0.1:{free_port()}"), "nothing answers at"),
        (("--url", "there"), "'there' is no URL of a service"),
        (("--url", "http://there", "--paced", "--format", "mp3"), "--paced hears raw_pcm and wav"),
    ],
)
def test_invalid_options_are_one_line(
    options: tuple[str, ...],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    status = 1 if words == "nothing answers at" else 2
    assert words in only_line((*options, "--key", "k"), monkeypatch, capsys, status)


def only_line(
    options: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    exit_code: int = 2,
) -> str:
    """Run the command, which fails with one line."""
    monkeypatch.setattr("sys.argv", ["chatterbox-tts", "bench", "serve", *options])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == exit_code
    [line] = capsys.readouterr().err.splitlines()
    return line


def test_without_url_one_line_names_the_option(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = only_line((), monkeypatch, capsys)
    assert "--url" in line
    assert "python -m tests.benchmarks.server_overhead" in line


def test_percentiles_are_in_milliseconds() -> None:
    seconds = [*(number / 1000 for number in range(100)), None]
    assert Percentiles.of(seconds) == Percentiles(50, 95, 99)
    assert Percentiles.of([]) is None
