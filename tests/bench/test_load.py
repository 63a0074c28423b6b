"""`bench serve --url`, and the server alone, for moments."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app.bench.load import Percentiles
from app.cli import main as cli
from tests.benchmarks.server_overhead import Effort, Figure, measure
from tests.support.service import API_KEY, Service, free_port, running_service

SOON = Effort(single_s=0.05, crowd_s=0.1, streams=10, letters=15)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("load")
    with running_service(folder, MAX_QUEUED_REQUESTS=0) as service:
        yield service


def bench(service: Service, *options: str) -> Result:
    given = ["--url", service.url, "--key", API_KEY, *options]
    return CliRunner().invoke(cli.cli, ["bench", "serve", *given])


def test_a_load_is_told_in_a_table_and_in_json(service: Service, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    done = bench(service, "--requests", "5", "--text", "audio5", "--json", str(file))
    assert done.exit_code == 0, done.output
    assert "5 in " in done.stdout
    assert "first audible sample" in done.stdout
    as_dict = json.loads(file.read_text())
    assert as_dict["outcomes"] == {"200": 5}
    assert as_dict["audio_s"] == pytest.approx(5 * 5 * 0.04)
    assert 0 < as_dict["first_byte_ms"]["p50"] <= as_dict["first_byte_ms"]["p99"]
    assert as_dict["first_byte_ms"]["p50"] <= as_dict["first_audible_ms"]["p50"]
    assert as_dict["cpu_s"].keys() == {"master", "workers"}


def test_underruns_of_a_slow_service_are_counted(service: Service, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    text = "audio5 sleep0.5 audio5"
    done = bench(service, "--paced", "--requests", "1", "--text", text, "--json", str(file))
    assert done.exit_code == 0, done.output
    as_dict = json.loads(file.read_text())
    assert as_dict["underruns"] == 1
    assert as_dict["underrun_s"] == pytest.approx(0.3, abs=0.15)
    assert as_dict["seconds"] > 0.4 + as_dict["underrun_s"]


def test_errors_are_counted_by_their_codes(service: Service) -> None:
    done = bench(service, "--requests", "3", "--concurrency", "3", "--text", "sleep0.3 audio1")
    assert done.exit_code == 0, done.output
    assert "1 200" in done.stdout
    assert "2 429 queue_full" in done.stdout
    nothing = bench(service, "--requests", "2", "--text", " ")
    assert nothing.exit_code == 1
    assert "2 400 empty_text" in nothing.stdout
    assert nothing.stderr == "400 empty_text: There is nothing in this text that can be spoken.\n"


def test_for_seconds_means_until_then(service: Service) -> None:
    done = bench(service, "--seconds", "0.2", "--text", "audio1")
    assert done.exit_code == 0, done.output
    assert " in 0.2" in done.stdout


@pytest.mark.parametrize("key", ["", "wrong"])
def test_a_key_that_is_refused_is_one_line_that_says_how_to_give_it(
    service: Service,
    key: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = only_line(("--url", service.url, "--key", key), monkeypatch, capsys)
    assert "The API key is missing or wrong." in line
    assert line.endswith("Here, --key or API_KEY gives it.")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--url", "http://there", "--format", "ogg"), "'ogg'; there are wav, mp3, fmp4, "),
        (("--url", f"http://127.0.0.1:{free_port()}"), "nothing answers at"),
        (("--url", "there"), "'there' is no URL of a service"),
        (("--url", "http://there", "--paced", "--format", "mp3"), "--paced hears raw_pcm and wav"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    options: tuple[str, ...],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert words in only_line((*options, "--key", "k"), monkeypatch, capsys)


def only_line(
    options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    """What the command says that cannot be done."""
    monkeypatch.setattr("sys.argv", ["chatterbox-tts", "bench", "serve", *options])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    [line] = capsys.readouterr().err.splitlines()
    return line


def test_a_soak_has_a_service_of_its_own() -> None:
    refused = CliRunner().invoke(cli.cli, ["bench", "serve", "--soak", "1", "--url", "http://x"])
    assert refused.exit_code == 2
    assert "--url" in refused.stderr


async def test_the_server_alone_is_measured_beside_handlers_that_do_no_more(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    figures = {
        figure.name: figure
        for figure in await measure(tmp_path_factory.mktemp("a"), SOON, lambda what: None)
    }
    for name in ("requests that failed", "streams that failed"):
        assert figures[name].value == 0
    assert figures["paced streams"].value == SOON.streams
    service, route, raw = (
        figures[f"{name}: CPU a request"].value
        for name in ("master", "streaming FastAPI route", "raw ASGI function")
    )
    assert service > route > raw
    to_route, to_raw = (
        figures[f"master / {name}"] for name in ("streaming FastAPI route", "raw ASGI function")
    )
    assert (to_route.value, to_route.target) == (service / route, 3)
    assert (to_raw.value, to_raw.target) == (service / raw, None)
    assert figures["time to first byte over a raw one's, p50"].value > 0


def test_a_target_is_a_most_or_a_least() -> None:
    assert Figure("a", 3, "×", 3).met
    assert not Figure("a", 3.1, "×", 3).met
    assert Figure("a", 800, "/s", 800, least=True).met
    assert not Figure("a", 799, "/s", 800, least=True).met
    assert Figure("a", 799, "/s").met is None


def test_a_spread_is_in_milliseconds() -> None:
    assert Percentiles.of([number / 1000 for number in range(100)]) == Percentiles(50, 95, 99)
    assert Percentiles.of([]) is None
