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
from tests.support.http_client import Response, connections, fetch, speech, speech_params, upload
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


def health(service: Service) -> str:
    with service.client() as client:
        return client.get("/health").json()["status"]


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
async def test_sigterm_completes_streams_and_refuses_new_requests(
    start: Callable[..., Service],
) -> None:
    service = start()
    async with (
        service.async_client() as client,
        client.stream("POST", ROUTE, json=speech_params(TWO_SECONDS)) as answer,
    ):
        audio = answer.aiter_raw()
        began = await anext(audio)
        queued = asyncio.create_task(client.post(ROUTE, json=speech_params("audio2")))
        await service.until(lambda: service.status()["queue"]["waiting"] == 1)
        service.process.send_signal(signal.SIGTERM)
        await service.until(lambda: health(service) == "draining")
        refused = await client.post(ROUTE, json=speech_params("audio1"))
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "shutting_down"
        assert int(refused.headers["Retry-After"]) > 0
        assert (await client.get("/ready")).status_code == 503
        rest = b"".join([piece async for piece in audio])
        assert began + rest == expected_pcm(TWO_SECONDS, 7)
        assert (await queued).content == expected_pcm("audio2", 7)
    assert await asyncio.to_thread(service.process.wait, EXITS_WITHIN_S) == 0
    assert "Traceback" not in service.log()


@pytest.mark.fault(47)
async def test_sigterm_under_load_completes_accepted_requests_in_every_format(
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
    answers = await asyncio.gather(*accepted)
    assert all(answer.status == 200 and answer.complete for answer in answers)
    assert [answer.body for answer in answers] == [answer.body for answer in undisturbed]
    assert await asyncio.to_thread(service.process.wait, EXITS_WITHIN_S) == 0
    assert "Traceback" not in service.log()


@pytest.mark.timed
@pytest.mark.fault(48)
@pytest.mark.parametrize("reads", [True, False])
async def test_stream_longer_than_grace_time_is_aborted(
    start: Callable[..., Service], reads: bool
) -> None:
    service = start(SHUTDOWN_GRACE_SECONDS=1)
    text = "audio10 sleep60" if reads else "audio50 " * 400
    async with (
        service.async_client() as client,
        client.stream("POST", ROUTE, json=speech_params(text)) as answer,
    ):
        audio = answer.aiter_raw()
        await anext(audio)
        began = monotonic()
        service.process.send_signal(signal.SIGTERM)
        if reads:
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
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_idle_service_exits_at_once_and_leaves_nothing(
    start: Callable[..., Service], temp_dir: Path, number: int
) -> None:
    service = start(TMPDIR=temp_dir, WORKERS_PER_DEVICE=2)
    [folder] = temp_dir.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert exit_of(service, number) == 0
    assert list(temp_dir.iterdir()) == []


@pytest.mark.timed
@pytest.mark.fault(49)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_loading_service_exits_at_once_and_leaves_nothing(
    tmp_path: Path, temp_dir: Path, number: int
) -> None:
    service = Service(tmp_path, {"MODEL": LOADING, "TMPDIR": temp_dir})
    service.wait_until(lambda: "listening on" in service.log(), 20)
    assert exit_of(service, number) == 0
    assert list(temp_dir.iterdir()) == []


@pytest.mark.fault(49)
def test_sigint_to_all_processes_is_an_orderly_exit(start: Callable[..., Service]) -> None:
    service = start(WORKERS_PER_DEVICE=2)
    for child in service.children():
        child.send_signal(signal.SIGINT)
    assert exit_of(service, signal.SIGINT) == 0


def test_files_of_a_killed_master_are_removed_by_the_next(
    start: Callable[..., Service], temp_dir: Path
) -> None:
    killed = start(TMPDIR=temp_dir)
    killed.process.kill()
    killed.process.wait()
    [left] = temp_dir.iterdir()
    start(TMPDIR=temp_dir)
    [own] = temp_dir.iterdir()
    assert own != left


@pytest.mark.fault(46)
def test_two_masters_share_a_host_and_its_voices(
    start: Callable[..., Service], temp_dir: Path
) -> None:
    first, second = (start(VOICES_DIR=temp_dir / "voices", TMPDIR=temp_dir) for _ in range(2))
    assert len(list(temp_dir.glob("chatterbox-tts-*"))) == 2
    with first.client() as one, second.client() as other:
        files = {"file": ("v.wav", audio_file(tone(1.1)))}
        assert one.post("/voices", files=files).status_code == 201
        second.wait_until(lambda: other.get("/voices").json() == ["v.wav"])
        asked = speech_params("audio3") | {"voice_id": "v.wav"}
        assert one.post(ROUTE, json=asked).content == other.post(ROUTE, json=asked).content
        first.stop()
        assert other.post(ROUTE, json=asked).status_code == 200


@pytest.mark.fault(46)
@pytest.mark.timed
async def test_two_masters_follow_each_others_voice_changes(
    start: Callable[..., Service], temp_dir: Path
) -> None:
    """Speech meanwhile uses one exact version, or gets 404."""
    first, second = (start(VOICES_DIR=temp_dir / "voices") for _ in range(2))
    request = speech("audio3", voice_id="v.wav")
    spoken = {seconds: expected_pcm("audio3", 7, code(seconds)) for seconds in (1.1, 1.2)}

    async def hears(service: Service, before: float | None, after: float | None) -> None:
        """That version of the voice, soon; and until then the one before."""
        async with asyncio.timeout(FOLLOWS_WITHIN_S):
            while (answer := await fetch(service, request)) and not _is(answer, spoken.get(after)):
                assert _is(answer, spoken.get(before))

    async def change(service: Service, request: bytes, status: int) -> None:
        assert (await fetch(service, request)).status == status

    await change(first, upload(wav(1.1), "v.wav"), 201)
    await hears(second, None, 1.1)
    await change(second, upload(wav(1.2), "v.wav", query="?replace=true"), 201)
    await hears(first, 1.1, 1.2)
    await change(first, upload(wav(1.1), "v.wav"), 409)
    with first.client() as client:
        assert client.delete("/voices/v.wav").status_code == 200
    await hears(second, 1.2, None)
    assert not list(first.folder.rglob("*.wav"))


def _is(answer: Response, spoken: bytes | None) -> bool:
    """Return whether the response is `spoken`, or 404 for None."""
    if spoken is None:
        return answer.status == 404
    return answer.status == 200 and answer.body == spoken


@pytest.mark.fault(50)
@pytest.mark.parametrize("decoding", [False, True])
async def test_master_killed_during_upload_leaves_no_voice(
    tmp_path: Path, temp_dir: Path, decoding: bool
) -> None:
    """Kill it while the file arrives, or while it is being decoded."""
    whole = upload(wav(290 if decoding else 20), "v.wav")
    with running_service(tmp_path, TMPDIR=temp_dir) as service:
        async with connections(service, [whole if decoding else whole[: len(whole) // 2]]):
            if decoding:
                await service.until(lambda: any(service.voices_dir.iterdir()))
            else:
                await service.until(lambda: master_has_read(service, len(whole) // 3))
            service.process.kill()
            await asyncio.to_thread(service.process.wait)
    left = list(service.voices_dir.iterdir())
    assert len(left) == decoding
    assert all(file.name.startswith(".") for file in left)
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
@pytest.mark.parametrize("key", [None, "", '""'])
def test_missing_key_is_one_line_and_exit_code_2(tmp_path: Path, key: str | None) -> None:
    code, lines = serve(tmp_path, API_KEY=key)
    assert code == 2
    [line] = lines
    assert "API_KEY" in line


@pytest.mark.fault(45)
@pytest.mark.timed
def test_port_in_use_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        began = monotonic()
        for name in ("PORT", "PORT_HEALTH"):
            code, lines = serve(tmp_path, **{name: port})
            assert code not in (0, None)
            [line] = lines
            assert str(port) in line
            assert line.endswith(f"Address already in use; set another {name}")
        assert monotonic() - began < 2 * EXITS_WITHIN_S


@pytest.mark.parametrize("name", ["VOICES_DIR", "PRELOADED_VOICES_DIR"])
def test_invalid_voices_folder_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("no folder")
    code, lines = serve(tmp_path, LOG_LEVEL="WARNING", **{name: tmp_path / "file"})
    assert code not in (0, None)
    [line] = lines
    assert str(tmp_path / "file") in line


def test_each_wrong_setting_is_one_line(tmp_path: Path) -> None:
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


def test_missing_engine_package_is_one_line(tmp_path: Path) -> None:
    code, lines = serve(tmp_path, MODEL="foo:Bar")
    assert code == 2
    assert lines == ["chatterbox-tts: MODEL: there is no package 'foo' to import an engine from"]


@pytest.mark.fault(11)
def test_missing_weights_are_one_line_that_names_the_command(tmp_path: Path) -> None:
    code, lines = serve(tmp_path, MODEL="chatterbox", MODEL_PATH=tmp_path / "models")
    assert code == 2
    [line] = lines
    assert "models download" in line
    assert "t3_cfg.safetensors" in line


@pytest.mark.parametrize("model", ["auto", "chatterbox"])
def test_folder_of_another_model_is_one_line_that_names_it(tmp_path: Path, model: str) -> None:
    (tmp_path / "t3_turbo_v1.safetensors").touch()
    code, lines = serve(tmp_path, MODEL=model, MODEL_PATH=tmp_path)
    assert code == 2
    [line] = lines
    assert "is of Chatterbox Turbo; only the English Chatterbox is supported" in line
