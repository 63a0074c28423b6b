"""Shutdown: orderly, in time and without leftovers; and starts that fail."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import httpx
import psutil
import pytest

from tests.support.engines import expected_pcm, voice_code
from tests.support.http_client import (
    Response,
    connections,
    error_code,
    fetch,
    slow_connection,
    speech,
    speech_params,
    upload,
)
from tests.support.media import audio_file, tone
from tests.support.service import API_KEY, ROOT, SCRIPTED, Service, free_port, running_service

ROUTE = "/tts/generate"
EXITS_WITHIN_S = 5
FOLLOWS_WITHIN_S = 5
RATE = 8000
FORMATS = ("wav", "mp3", "fmp4", "raw_pcm", "webm")
LOADING = "tests.support.engines:LoadingEngine"
TWO_SECONDS = "audio10 " + "sleep0.1 audio1 " * 20


@pytest.fixture
def temp_dir() -> Iterator[Path]:
    """A folder for runtime files with a path short enough for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="tts-test-"))
    yield folder
    shutil.rmtree(folder)


def exit_of(service: Service, number: int) -> int:
    """Send the signal and return the exit code; check time, children and log."""
    children = service.children()
    began = monotonic()
    code = service.stop(number)
    assert monotonic() - began < EXITS_WITHIN_S
    assert not psutil.wait_procs(children, timeout=1)[1]
    assert "Traceback" not in service.log()
    return code


# --- with running streams -------------------------------------------------------------------------


@pytest.mark.fault(47)
async def test_sigterm_completes_accepted_requests_in_every_format_and_refuses_new_ones(
    start: Callable[..., Service],
) -> None:
    """Six streams run and four requests wait."""
    service = start(CONCURRENT_REQUESTS_PER_WORKER=6)
    asked = [speech(TWO_SECONDS, format=name) for name in FORMATS]
    asked.append(speech(TWO_SECONDS, format="mp3", stream="false"))
    asked += [speech("audio30 sleep0.1 audio20", format=name) for name in FORMATS[:4]]
    undisturbed = await asyncio.gather(*(fetch(service, request) for request in asked))
    accepted = []
    for waiting, requests in ((0, asked[:6]), (4, asked[6:])):
        accepted += [asyncio.create_task(fetch(service, request)) for request in requests]
        expected = {"running": 6, "waiting": waiting}
        await service.until(
            lambda expected=expected: expected.items() <= service.status()["queue"].items()
        )
    service.process.send_signal(signal.SIGTERM)
    async with service.async_client() as client:
        async with asyncio.timeout(EXITS_WITHIN_S):
            while (await client.get("/health")).json()["status"] != "draining":  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        refused = await client.post(ROUTE, json=speech_params("audio1"))
        assert error_code(refused, 503) == "shutting_down"
        assert int(refused.headers["Retry-After"]) > 0
        assert (await client.get("/ready")).status_code == 503
    answers = await asyncio.gather(*accepted)
    assert all(answer.status == 200 and answer.complete for answer in answers)
    assert [answer.body for answer in answers] == [answer.body for answer in undisturbed]
    assert await asyncio.to_thread(service.process.wait, EXITS_WITHIN_S) == 0
    assert "Traceback" not in service.log()


@pytest.mark.timed
@pytest.mark.fault(48)
async def test_streams_longer_than_grace_time_are_aborted(start: Callable[..., Service]) -> None:
    """One is read, the other is not."""
    service = start(SHUTDOWN_GRACE_SECONDS=1, CONCURRENT_REQUESTS_PER_WORKER=2)
    with slow_connection(service, speech("audio50 " * 400)):
        async with (
            service.async_client() as client,
            client.stream("POST", ROUTE, json=speech_params("audio10 sleep60")) as answer,
        ):
            audio = answer.aiter_raw()
            await anext(audio)
            await service.until(lambda: service.busy() == 2)
            began = monotonic()
            service.process.send_signal(signal.SIGTERM)
            with pytest.raises(httpx.RemoteProtocolError):
                await anext(audio)
            assert 0.9 < monotonic() - began < 2
            assert "Traceback" not in service.log()
            assert await asyncio.to_thread(service.process.wait, 1 + 2 * EXITS_WITHIN_S) == 0


async def test_second_signal_aborts_streams(start: Callable[..., Service]) -> None:
    service = start()
    async with (
        service.async_client() as client,
        client.stream("POST", ROUTE, json=speech_params("audio10 sleep60")) as answer,
    ):
        audio = answer.aiter_raw()
        await anext(audio)
        service.process.send_signal(signal.SIGTERM)
        await service.until(lambda: "SIGTERM" in service.log())
        service.process.send_signal(signal.SIGTERM)
        with pytest.raises(httpx.RemoteProtocolError):
            await anext(audio)
        assert await asyncio.to_thread(service.process.wait, EXITS_WITHIN_S) == 0


# --- without streams ------------------------------------------------------------------------------


@pytest.mark.timed
@pytest.mark.fault(49)
@pytest.mark.parametrize(
    ("number", "to_all"),
    [(signal.SIGTERM, False), (signal.SIGINT, True)],
    ids=["SIGTERM", "Ctrl-C"],
)
def test_idle_service_exits_at_once_and_leaves_nothing(
    start: Callable[..., Service], temp_dir: Path, number: int, to_all: bool
) -> None:
    service = start(TMPDIR=temp_dir, WORKERS_PER_DEVICE=2)
    service.wait_until(service.all_ready, 30)
    if to_all:
        for child in service.children():
            child.send_signal(number)
    assert exit_of(service, number) == 0
    assert list(temp_dir.iterdir()) == []


@pytest.mark.timed
@pytest.mark.fault(49)
def test_loading_service_exits_at_once_and_leaves_nothing(tmp_path: Path, temp_dir: Path) -> None:
    service = Service(tmp_path, {"MODEL": LOADING, "TMPDIR": temp_dir})
    service.wait_until(lambda: "listening on" in service.log(), 20)
    assert exit_of(service, signal.SIGTERM) == 0
    assert list(temp_dir.iterdir()) == []


@pytest.mark.fault(46)
async def test_two_masters_share_a_host_and_its_voices(
    start: Callable[..., Service], temp_dir: Path
) -> None:
    """They follow each other's changes; speech meanwhile uses one exact version, or gets 404."""
    first, second = (start(VOICES_DIR=temp_dir / "voices", TMPDIR=temp_dir) for _ in range(2))
    assert sum(name.startswith("chatterbox-tts-") for name in os.listdir(temp_dir)) == 2
    request = speech("audio3", voice_id="v.wav")
    spoken = {seconds: expected_pcm("audio3", 7, code(seconds)) for seconds in (1.1, 1.2)}

    def is_speech(answer: Response, seconds: float | None) -> bool:
        return answer.status == 404 if seconds is None else answer.body == spoken[seconds]

    async def follows(service: Service, before: float | None, after: float | None) -> None:
        """The service speaks with that version soon, and until then with the one before."""
        async with asyncio.timeout(FOLLOWS_WITHIN_S):
            while not is_speech(answer := await fetch(service, request), after):
                assert is_speech(answer, before)

    assert (await fetch(first, upload(wav(1.1), "v.wav"))).status == 201
    await follows(second, None, 1.1)
    assert (await fetch(second, upload(wav(1.2), "v.wav", query="?replace=true"))).status == 201
    await follows(first, 1.1, 1.2)
    assert (await fetch(first, upload(wav(1.1), "v.wav"))).status == 409
    assert first.stop() == 0
    assert is_speech(await fetch(second, request), 1.2)
    (temp_dir / "voices" / "v.wav").unlink()  # as another master does
    await follows(second, 1.2, None)


@pytest.mark.timed
@pytest.mark.fault(50)
async def test_master_killed_during_uploads_leaves_no_worker_and_no_voice(
    tmp_path: Path, temp_dir: Path
) -> None:
    """One file is still arriving, another is being decoded."""
    decoding, arriving = upload(wav(290), "v.wav"), upload(wav(20), "v.wav")
    with running_service(tmp_path, TMPDIR=temp_dir, WORKERS_PER_DEVICE=2) as service:
        service.wait_until(service.all_ready)
        workers = [psutil.Process(pid) for pid in service.worker_pids()]
        workers[0].suspend()  # one that can do nothing for its own end
        async with connections(service, [arriving[: len(arriving) // 2]]):
            await service.until(lambda: master_has_read(service, len(arriving) // 3))
            async with connections(service, [decoding]):
                await service.until(lambda: any(service.voices_dir.iterdir()))
                service.process.kill()
                await asyncio.to_thread(service.process.wait)
        _, alive = psutil.wait_procs(workers, timeout=2)
    for worker in alive:
        worker.kill()
    assert not alive
    [left] = service.voices_dir.iterdir()
    assert left.name.startswith(".")
    with running_service(tmp_path, TMPDIR=temp_dir) as service, service.client() as client:
        assert client.get("/voices").json() == []
        assert (await fetch(service, upload(wav(1.1), "v.wav"))).status == 201
        assert client.get("/voices").json() == ["v.wav"]
        spoken = await fetch(service, speech("audio3", voice_id="v.wav"))
        assert spoken.body == expected_pcm("audio3", 7, code(1.1))


def master_has_read(service: Service, count: int) -> bool:
    return psutil.Process(service.process.pid).io_counters().read_chars > count


def wav(seconds: float) -> bytes:
    return audio_file(tone(seconds, RATE), rate=RATE)


def code(seconds: float) -> int:
    """Return the voice code of `wav(seconds)`."""
    return voice_code(tone(seconds, RATE))


# --- failing starts -------------------------------------------------------------------------------


def serve(folder: Path, **env: Any) -> tuple[int, list[str]]:
    """Return exit code and output lines of a failing start, which leaves no process."""
    settings = {"API_KEY": API_KEY, "MODEL": SCRIPTED, "HOST": "127.0.0.1", "PORT": free_port()}
    inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    given = {name: str(value) for name, value in (settings | env).items() if value is not None}
    done = subprocess.run(
        [sys.executable, "-m", "app", "serve"],
        cwd=folder,
        env=inherited | {"PYTHONPATH": str(ROOT)} | given,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=20,
    )
    assert not [each for each in psutil.process_iter(["cwd"]) if each.info["cwd"] == str(folder)]
    return done.returncode, done.stdout.splitlines()


@pytest.mark.fault(43)
def test_missing_key_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    code, lines = serve(tmp_path, API_KEY="", HOST="0.0.0.0")  # noqa: S104
    assert code == 2
    [line] = lines
    assert "API_KEY" in line


@pytest.mark.fault(45)
@pytest.mark.timed
def test_port_in_use_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        began = monotonic()
        code, lines = serve(tmp_path, PORT=port)
        assert monotonic() - began < EXITS_WITHIN_S
    assert code not in (0, None)
    [line] = lines
    assert str(port) in line
    assert line.endswith("Address already in use; set another PORT")


@pytest.mark.fault(45)
@pytest.mark.parametrize(
    ("env", "end"),
    [
        ({"HOST": "192.0.2.1"}, "set another HOST"),
        ({"API_KEY": "a #b"}, "put the key into quotes, or remove the comment"),
    ],
)
def test_unusable_host_or_key_is_one_line(tmp_path: Path, env: dict[str, str], end: str) -> None:
    code, lines = serve(tmp_path, **({"API_KEY": 4 * API_KEY} | env))
    assert code == 2
    [line] = lines
    assert line.endswith(end)


@pytest.mark.fault(11)
def test_missing_weights_are_one_line_that_names_the_command(tmp_path: Path) -> None:
    code, lines = serve(tmp_path, MODEL="chatterbox", MODEL_PATH=tmp_path / "models")
    assert code == 2
    [line] = lines
    assert "models download" in line
    assert "t3_cfg.safetensors" in line
