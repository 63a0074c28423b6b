"""Texts, names, voices and uploads that are made to take time, memory or disk space."""

import asyncio
import json
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from time import monotonic

import httpx
import numpy as np
import psutil
import pytest

from app.voices.upload_slots import MAX_UPLOADS, MAX_WAITING
from tests.support.api import (
    BOUNDARY,
    all_files,
    code,
    error_code,
    form,
    heard,
    part,
    refusal,
    upload,
    wav,
)
from tests.support.fault_injection import HANG, NO_THREADS
from tests.support.media import audio_file, tone
from tests.support.service import API_KEY, Service, running_service

INJECTED = "tests.support.fault_injection"
MOST_LAG_S = 0.5
"""For `/health`, on a busy machine; each of these requests once took 17 to 60 s."""

MARKS = "a" + "\u0301" * 60_000 + "\u0316" * 60_000
RESCANNED_WITHIN_S = 6


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running_service(tmp_path_factory.mktemp("limits"), VOICE_CACHE_MB=1) as service:
        yield service


def cached(service: Service) -> list[Path]:
    """Return the files in the service's cache folder."""
    return sorted(path for path in service.cache_dir.rglob("*") if path.is_file())


async def check_responsive(service: Service, request: httpx.Request) -> httpx.Response:
    """Send the request, and `/health` beside it; return the response."""
    async with service.async_client() as client:
        sent = asyncio.create_task(client.send(request))
        worst = 0.0
        while not sent.done():
            began = monotonic()
            await client.get("/health")
            worst = max(worst, monotonic() - began)
    print(f"/health: {1000 * worst:.0f} ms")
    assert worst < MOST_LAG_S
    return await sent


# --- time -----------------------------------------------------------------------------------------


@pytest.mark.fault(95)
@pytest.mark.parametrize(
    ("route", "body", "status"),
    [
        ("/tts/generate", {"text": MARKS}, 413),
        ("/tts/generate", {"text": "audio1", "voice_id": MARKS}, 404),
        ("/v1/audio/speech", {"input": "audio1", "voice": MARKS}, 404),
        ("/tts/generate", {"text": f"audio1 {MARKS[50_000:69_000]}"}, 200),
    ],
)
async def test_combining_marks_stop_nothing(
    service: Service, route: str, body: dict[str, str], status: int
) -> None:
    with service.client() as client:
        request = client.build_request("POST", route, json=body)
    assert (await check_responsive(service, request)).status_code == status


@pytest.mark.fault(96)
@pytest.mark.parametrize("where", ["content", "JSON"])
async def test_no_charset_but_utf8_is_decoded(service: Service, where: str) -> None:
    kind, body = "application/json", json.dumps({"text": "audio1"}).encode()
    if where == "content":
        kind = f"multipart/form-data; boundary={BOUNDARY.decode()}"
        body = form(part(b"a" * 1_000_000, b'name="a"'))
    headers = {"Content-Type": f"{kind}; charset=punycode"}
    route = "/voices" if where == "content" else "/tts/generate"
    with service.client() as client:
        request = client.build_request("POST", route, content=body, headers=headers)
    error = refusal(await check_responsive(service, request))
    assert error["message"] == "The charset of the body must be UTF-8."


# --- space ----------------------------------------------------------------------------------------


@pytest.mark.fault(97)
@pytest.mark.heavy
def test_a_voice_takes_no_more_space_than_engines_use(start: Callable[..., Service]) -> None:
    rate = 384_000
    samples = np.zeros(70 * rate, np.float32)
    samples[: 2 * rate] = tone(2, rate)
    content = audio_file(samples, rate=rate, container="flac", codec="flac")
    service = start()
    with service.client() as client:
        assert upload(client, "v.flac", content).status_code == 201
        assert heard(client, "v.flac")
        [decoded] = [path for path in cached(service) if not path.suffix]
        print(f"{len(content):,} B became {decoded.stat().st_size:,} B")
        assert decoded.stat().st_size < 12_000_000


@pytest.mark.fault(98)
@pytest.mark.heavy
def test_decoded_voices_have_a_budget(service: Service) -> None:
    with service.client() as client:
        for number in range(2):  # 0.6 MB each
            answer = upload(client, f"{number}.wav", wav(9 + number / 10))
            assert answer.status_code == 201
        answer = upload(client, "2.wav", wav(9.5))
        assert error_code(answer, 507) == "storage_full"
        assert "VOICE_CACHE_MB" in answer.json()["error"]["message"]
        assert answer.headers["Retry-After"]
        assert client.get("/voices").json() == ["0.wav", "1.wav"]
        assert heard(client, "1.wav") == code(9.1)
        for number in range(2):
            client.delete(f"/voices/{number}.wav").raise_for_status()
        assert upload(client, "2.wav", wav(1.1)).status_code == 201
        client.delete("/voices/2.wav").raise_for_status()
    assert cached(service) == []


@pytest.mark.fault(99)
def test_uploads_under_way_are_limited(service: Service) -> None:
    before = all_files(service.folder)
    with ExitStack() as connections, service.client() as client:
        for _ in range(MAX_UPLOADS + MAX_WAITING):
            connection = connections.enter_context(service.connect())
            connection.sendall(
                f"POST /voices HTTP/1.1\r\nHost: x\r\nX-API-Key: {API_KEY}\r\n"
                f"Content-Type: multipart/form-data; boundary={BOUNDARY.decode()}\r\n"
                "Content-Length: 900000\r\n\r\n".encode()
            )
        service.wait_until(lambda: upload(client, "v.wav", wav()).status_code == 503)
        answer = upload(client, "v.wav", wav())
        assert error_code(answer, 503) == "too_many_uploads"
        assert answer.headers["Retry-After"]
        assert heard(client, "v.wav") is None
    with service.client() as client:
        service.wait_until(lambda: upload(client, "v.wav", wav()).status_code == 201)
        client.delete("/voices/v.wav").raise_for_status()
    assert all_files(service.folder) == before


@pytest.mark.fault(99)
def test_an_upload_whose_client_left_is_not_decoded(service: Service) -> None:
    body = form(part(wav(1.3)))
    for number in range(12):
        with service.connect() as connection:
            connection.sendall(
                f"POST /voices HTTP/1.1\r\nHost: x\r\nX-API-Key: {API_KEY}\r\n"
                f"X-Request-ID: left-{number}\r\n"
                f"Content-Type: multipart/form-data; boundary={BOUNDARY.decode()}\r\n"
                f"Content-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
    service.wait_until(lambda: all(f"left-{n} POST" in service.log() for n in range(12)), 2)
    assert service.log().count(" POST /voices - aborted") >= 12
    assert cached(service) == []


# --- what is out, gone or does not answer ---------------------------------------------------------


@pytest.mark.fault(100)
@pytest.mark.heavy
def test_decoding_without_threads_is_tried_again(tmp_path: Path) -> None:
    with running_service(tmp_path, (INJECTED, "threads")) as service, service.client() as client:
        (service.folder / NO_THREADS).touch()
        assert upload(client, "a.wav", wav(1.1)).status_code in (201, 503)
        (service.voices_dir / "b.wav").write_bytes(wav(1.2))
        service.wait_until(lambda: "b.wav" in service.log() or heard(client, "b.wav"), 10)
        assert heard(client, "nobody.wav") is None
        (service.folder / NO_THREADS).unlink()
        service.wait_until(lambda: heard(client, "b.wav") == code(1.2), 12)
        assert service.process.poll() is None


@pytest.mark.fault(101)
@pytest.mark.parametrize("gone", ["files", "folder", "content"])
def test_decoded_voices_that_vanish_are_made_again(service: Service, gone: str) -> None:
    with service.client() as client:
        assert upload(client, "v.wav", wav(1.1)).status_code == 201
        service.wait_until(lambda: len(cached(service)) == 2, 10)  # no worker writes there now
        folder = cached(service)[0].parent
        if gone == "content":
            for path in cached(service):
                path.write_bytes(b"")
        else:
            shutil.rmtree(folder)
        if gone == "files":
            folder.mkdir(mode=0o700)
        [worker] = service.workers()
        psutil.Process(worker["pid"]).kill()

        def speaks() -> bool:
            answer = client.post("/tts/generate", json={"text": "audio1", "voice_id": "v.wav"})
            return answer.status_code == 200

        service.wait_until(speaks, 20)
        assert heard(client, "v.wav") == code(1.1)
        assert folder.stat().st_mode & 0o777 == 0o700
        client.delete("/voices/v.wav").raise_for_status()


@pytest.mark.fault(102)
def test_decoded_and_prepared_voices_outlive_the_service_but_not_the_voice(tmp_path: Path) -> None:
    with running_service(tmp_path) as service, service.client() as client:
        for number in range(3):
            upload(client, f"{number}.wav", wav(1.1 + number / 10)).raise_for_status()
            assert heard(client, f"{number}.wav")
        client.delete("/voices/0.wav").raise_for_status()
    kept = {path: path.stat().st_mtime_ns for path in cached(service)}
    assert [path.suffix for path in kept] == ["", ".prepared"] * 2
    for path in kept:
        assert path.parent.stat().st_mode & 0o777 == 0o700
    (service.voices_dir / "1.wav").unlink()
    with running_service(tmp_path) as service, service.client() as client:
        assert client.get("/voices").json() == ["2.wav"]
        assert heard(client, "2.wav") == code(1.3)
        service.wait_until(lambda: len(cached(service)) == 2, RESCANNED_WITHIN_S)
        decoded, _ = cached(service)
        assert kept[decoded] == decoded.stat().st_mtime_ns
        assert decoded.stat().st_mode & 0o777 == 0o600
        client.delete("/voices/2.wav").raise_for_status()
        assert cached(service) == []


@pytest.mark.fault(103)
@pytest.mark.heavy
def test_a_voices_folder_that_hangs_costs_voices_only(tmp_path: Path) -> None:
    (tmp_path / HANG).write_text(f"{tmp_path}/voices/")  # it hangs at the start
    with running_service(tmp_path, (INJECTED, "hang")) as service, service.client() as client:
        speech = {"text": "audio1"}
        assert client.post("/tts/generate", json=speech).status_code == 200
        assert error_code(upload(client, "v.wav", wav()), 503) == "storage_unavailable"
        (tmp_path / HANG).unlink()
        service.wait_until(lambda: upload(client, "v.wav", wav()).status_code == 201)
        assert heard(client, "v.wav") == code(1)

        (tmp_path / HANG).write_text(f"{tmp_path}/voices/")
        assert "has not answered for 1 s" in service.log()
        assert heard(client, "v.wav") == code(1)
        assert error_code(client.delete("/voices/v.wav"), 503) == "storage_unavailable"
        began = monotonic()
        assert service.stop(signal.SIGTERM) == 0
        assert monotonic() - began < 6


@pytest.mark.fault(105)
@pytest.mark.heavy
def test_a_cache_folder_that_hangs_costs_voices_only(tmp_path: Path) -> None:
    (tmp_path / HANG).write_text("/chatterbox-tts-server/")  # at the start it is not used
    with running_service(tmp_path, (INJECTED, "hang")) as service, service.client() as client:
        assert "decoded voices will not outlive the service" in service.log()
        assert upload(client, "kept.wav", wav(1.1)).status_code == 201
        assert heard(client, "kept.wav") == code(1.1)
    (tmp_path / HANG).unlink()
    with running_service(tmp_path, (INJECTED, "hang")) as service, service.client() as client:
        service.wait_until(lambda: heard(client, "kept.wav") == code(1.1))
        (tmp_path / HANG).write_text("/chatterbox-tts-server/")
        assert error_code(upload(client, "v.wav", wav()), 503) == "storage_unavailable"
        assert heard(client, "kept.wav") == code(1.1)
        began = monotonic()
        client.get("/health").raise_for_status()
        assert monotonic() - began < MOST_LAG_S
        (tmp_path / HANG).unlink()
        service.wait_until(lambda: upload(client, "v.wav", wav()).status_code == 201)
        (tmp_path / HANG).write_text("/chatterbox-tts-server/")
        began = monotonic()
        assert service.stop(signal.SIGTERM) == 0
        assert monotonic() - began < 6
