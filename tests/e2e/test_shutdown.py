"""How the service ends: orderly, in time, leaving nothing behind; or before it has begun."""

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

from tests.audio.media import audio_file, tone
from tests.scripted import expected_pcm
from tests.service import API_KEY, ROOT, SCRIPTED, Service, free_port

ROUTE = "/tts/generate"
EXITS_WITHIN_S = 5
LOADING = "tests.scripted:LoadingEngine"
TWO_SECONDS = "audio10 " + "sleep0.1 audio1 " * 20


@pytest.fixture
def temp_dir() -> Iterator[Path]:
    """For the service's runtime folder; its path is short enough for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="tts-test-"))
    yield folder
    shutil.rmtree(folder)


def job(text: str) -> dict[str, Any]:
    return {"text": text, "seed": 7, "format": "raw_pcm", "chunk_overlap_method": "zero"}


def children_of(service: Service) -> list[psutil.Process]:
    return psutil.Process(service.process.pid).children(recursive=True)


def health(service: Service) -> str:
    with service.client() as client:
        return client.get("/health").json()["status"]


def exit_of(service: Service, number: int) -> int:
    """The exit code; all of it is over within the time allowed, and without a traceback."""
    children = children_of(service)
    began = monotonic()
    code = service.stop(number)
    assert monotonic() - began < EXITS_WITHIN_S
    assert not psutil.wait_procs(children, timeout=1)[1]
    assert "Traceback" not in service.log()
    return code


# --- with streams ---------------------------------------------------------------------------------


async def test_a_running_stream_is_completed_while_new_work_is_refused(
    start: Callable[..., Service],
) -> None:
    service = start()
    async with (
        service.async_client() as client,
        client.stream("POST", ROUTE, json=job(TWO_SECONDS)) as answer,
    ):
        audio = answer.aiter_raw()
        began = await anext(audio)
        queued = asyncio.create_task(client.post(ROUTE, json=job("audio2")))
        await service.until(lambda: service.status()["queue"]["waiting"] == 1)
        service.process.send_signal(signal.SIGTERM)
        await service.until(lambda: health(service) == "draining")
        refused = await client.post(ROUTE, json=job("audio1"))
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "shutting_down"
        assert int(refused.headers["Retry-After"]) > 0
        assert (await client.get("/ready")).status_code == 503
        rest = b"".join([piece async for piece in audio])
        assert began + rest == expected_pcm(TWO_SECONDS, 7)
        assert (await queued).content == expected_pcm("audio2", 7)
    assert await asyncio.to_thread(service.process.wait, EXITS_WITHIN_S) == 0
    assert "Traceback" not in service.log()


@pytest.mark.parametrize("reads", [True, False])
async def test_a_stream_longer_than_the_grace_time_is_aborted(
    start: Callable[..., Service], reads: bool
) -> None:
    service = start(SHUTDOWN_GRACE_SECONDS=1)
    text = "audio10 sleep60" if reads else "audio50 " * 400
    async with (
        service.async_client() as client,
        client.stream("POST", ROUTE, json=job(text)) as answer,
    ):
        audio = answer.aiter_raw()
        await anext(audio)
        began = monotonic()
        service.process.send_signal(signal.SIGTERM)
        if reads:
            with pytest.raises(httpx.RemoteProtocolError):
                await anext(audio)
            assert monotonic() - began >= 0.9
            assert "Traceback" not in service.log()
        assert await asyncio.to_thread(service.process.wait, 1 + 2 * EXITS_WITHIN_S) == 0


async def test_a_second_signal_does_not_wait_for_streams(start: Callable[..., Service]) -> None:
    service = start()
    async with (
        service.async_client() as client,
        client.stream("POST", ROUTE, json=job("audio10 sleep60")) as answer,
    ):
        audio = answer.aiter_raw()
        await anext(audio)
        service.process.send_signal(signal.SIGTERM)
        await service.until(lambda: "SIGTERM" in service.log())
        service.process.send_signal(signal.SIGTERM)
        with pytest.raises(httpx.RemoteProtocolError):
            await anext(audio)
        assert await asyncio.to_thread(service.process.wait, EXITS_WITHIN_S) == 0


# --- without --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_service_leaves_at_once_and_leaves_nothing_behind(
    start: Callable[..., Service], temp_dir: Path, number: int
) -> None:
    service = start(TMPDIR=temp_dir, WORKERS_PER_DEVICE=2)
    [folder] = temp_dir.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert exit_of(service, number) == 0
    assert list(temp_dir.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_loading_service_leaves_at_once_and_leaves_nothing_behind(
    tmp_path: Path, temp_dir: Path, number: int
) -> None:
    service = Service(tmp_path, {"MODEL": LOADING, "TMPDIR": temp_dir})
    service.wait_until(lambda: "listening on" in service.log(), 20)
    assert exit_of(service, number) == 0
    assert list(temp_dir.iterdir()) == []


def test_what_a_killed_master_left_is_removed_by_the_next(
    start: Callable[..., Service], temp_dir: Path
) -> None:
    killed = start(TMPDIR=temp_dir)
    killed.process.kill()
    killed.process.wait()
    [left] = temp_dir.iterdir()
    start(TMPDIR=temp_dir)
    [own] = temp_dir.iterdir()
    assert own != left


def test_two_masters_share_a_host_and_its_voices(
    start: Callable[..., Service], temp_dir: Path
) -> None:
    first, second = (start(VOICES_DIR=temp_dir / "voices", TMPDIR=temp_dir) for _ in range(2))
    assert len(list(temp_dir.glob("chatterbox-tts-*"))) == 2
    with first.client() as one, second.client() as other:
        files = {"file": ("v.wav", audio_file(tone(1.1)))}
        assert one.post("/voices", files=files).status_code == 201
        second.wait_until(lambda: other.get("/voices").json() == ["v.wav"])
        asked = job("audio3") | {"voice_id": "v.wav"}
        assert one.post(ROUTE, json=asked).content == other.post(ROUTE, json=asked).content
        first.stop()
        assert other.post(ROUTE, json=asked).status_code == 200


# --- never begun ----------------------------------------------------------------------------------


def serve(folder: Path, **env: Any) -> tuple[int, list[str]]:
    """The exit code and the lines of a start that fails, and leaves no process behind."""
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


@pytest.mark.parametrize("key", [None, "", '""'])
def test_without_a_key_nothing_starts(tmp_path: Path, key: str | None) -> None:
    code, lines = serve(tmp_path, API_KEY=key)
    assert code == 2
    [line] = lines
    assert "API_KEY" in line


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        began = monotonic()
        for name in ("PORT", "PORT_HEALTH"):
            code, lines = serve(tmp_path, **{name: port})
            assert code not in (0, None)
            [line] = lines
            assert str(port) in line
        assert monotonic() - began < 2 * EXITS_WITHIN_S


@pytest.mark.parametrize("name", ["VOICES_DIR", "PRELOADED_VOICES_DIR"])
def test_a_voices_folder_that_is_none_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("no folder")
    code, lines = serve(tmp_path, LOG_LEVEL="WARNING", **{name: tmp_path / "file"})
    assert code not in (0, None)
    [line] = lines
    assert str(tmp_path / "file") in line


def test_each_setting_that_is_wrong_is_one_line(tmp_path: Path) -> None:
    wrong = {
        "PORT": "0",
        "WORKERS_PER_DEVICE": "many",
        "LOG_LEVEL": "LOUD",
        "TTS_SYNTHESIS_TEMPERATURE": "NaN",
        "TTS_CHUNK_OVERLAP_STRATEGY": "half",
        "MODEL": "gpt",
        "MAX_QUEUED_REQUESTS": "-1",
        "QUEUE_TIMEOUT_SECONDS": "inf",
        "DEBUG": "perhaps",
    }
    code, lines = serve(tmp_path, **wrong)
    assert code == 2
    assert len(lines) == len(wrong)
    for name in wrong:
        assert [line for line in lines if line.removeprefix("chatterbox-tts: ").startswith(name)]
    assert API_KEY not in str(lines)


def test_an_engine_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    code, lines = serve(tmp_path, MODEL="foo:Bar")
    assert code == 2
    assert lines == ["chatterbox-tts: MODEL: there is no package 'foo' to import an engine from"]


def test_missing_weights_are_one_line_that_names_the_command(tmp_path: Path) -> None:
    code, lines = serve(tmp_path, MODEL="chatterbox", MODEL_PATH=tmp_path / "models")
    assert code == 2
    [line] = lines
    assert "models download" in line
    assert "t3_cfg.safetensors" in line


@pytest.mark.parametrize("model", ["auto", "chatterbox"])
def test_another_models_folder_is_one_line_that_names_it(tmp_path: Path, model: str) -> None:
    (tmp_path / "t3_turbo_v1.safetensors").touch()
    code, lines = serve(tmp_path, MODEL=model, MODEL_PATH=tmp_path)
    assert code == 2
    [line] = lines
    assert "is of Chatterbox Turbo; only the English Chatterbox is supported" in line
