"""`/voices` with real workers and watched folders; see also `tests/contract/test_voices.py`."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.api import (
    BOUNDARY,
    code,
    error_code,
    form,
    heard,
    part,
    upload,
    upload_raw,
    wav,
)
from tests.support.engines import expected_pcm
from tests.support.service import API_KEY, Service, running_service

LIMIT_BYTES = 1_048_576
WATCHED_WITHIN_S = 6
HELD = "audio10 sleep2 audio1"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("around") / "the-service"
    folder.mkdir()
    with running_service(folder, MAX_UPLOAD_MB=1) as service:
        yield service


@pytest.fixture
def client(service: Service) -> Iterator[httpx.Client]:
    """The service has no voice, before and after."""
    with service.client() as client:
        yield client
        for voice_id in client.get("/voices").raise_for_status().json():
            if client.delete(f"/voices/{voice_id}").status_code == 403:
                (service.preloaded_dir / voice_id).unlink()
        service.wait_until(lambda: client.get("/voices").json() == [])
        assert all_files(service) == {}


def all_files(service: Service) -> dict[str, tuple[int, int]]:
    """Return size and time of everything in and beside the service's folder, except its log."""
    return {
        str(path): (path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in service.folder.parent.rglob("*")
        if path != service.log_path and (path.is_symlink() or path.is_file())
    }


# --- good ones ------------------------------------------------------------------------------------


@pytest.mark.covers("upload privacy")
def test_upload_list_speak_delete(client: httpx.Client, service: Service) -> None:
    answer = upload(client, "My voice-1.wav", wav(1.2))
    assert answer.status_code == 201
    assert answer.json() == {
        "voice_id": "My voice-1.wav",
        "message": "Voice uploaded successfully.",
    }
    assert client.get("/voices").json() == ["My voice-1.wav"]
    assert heard(client, "My voice-1.wav") == code(1.2)
    stored = service.voices_dir / "My voice-1.wav"
    assert stored.read_bytes() == wav(1.2)
    assert stored.stat().st_mode & 0o777 == 0o600

    answer = client.delete("/voices/My voice-1.wav")
    assert answer.status_code == 200
    assert answer.json() == {"message": "Voice 'My voice-1.wav' deleted successfully."}
    assert client.get("/voices").json() == []
    assert heard(client, "My voice-1.wav") is None
    assert error_code(client.delete("/voices/My voice-1.wav"), 404) == "voice_not_found"


def test_uploaded_voice_hides_preloaded_one(client: httpx.Client, service: Service) -> None:
    (service.preloaded_dir / "v.wav").write_bytes(wav(1.1))
    service.wait_until(lambda: heard(client, "v.wav") == code(1.1), WATCHED_WITHIN_S)
    assert error_code(client.delete("/voices/v.wav"), 403) == "preloaded_voice"

    assert upload(client, "v.wav", wav(1.2)).status_code == 201
    assert heard(client, "v.wav") == code(1.2)
    assert client.get("/voices").json() == ["v.wav"]

    assert client.delete("/voices/v.wav").status_code == 200
    assert heard(client, "v.wav") == code(1.1)
    assert client.get("/voices").json() == ["v.wav"]
    assert (service.preloaded_dir / "v.wav").read_bytes() == wav(1.1)


def test_manual_changes_of_the_folder_are_followed(client: httpx.Client, service: Service) -> None:
    by_hand = service.voices_dir / "by hand.wav"
    by_hand.write_bytes(wav(1.1))
    service.wait_until(lambda: heard(client, "by hand.wav") == code(1.1), WATCHED_WITHIN_S)
    by_hand.write_bytes(wav(1.2))
    service.wait_until(lambda: heard(client, "by hand.wav") == code(1.2), WATCHED_WITHIN_S)
    by_hand.unlink()
    service.wait_until(lambda: heard(client, "by hand.wav") is None, WATCHED_WITHIN_S)


@pytest.mark.covers("voice of acceptance")
@pytest.mark.parametrize("replaced", [False, True])
async def test_queued_job_keeps_the_voice_it_was_accepted_with(
    client: httpx.Client, service: Service, replaced: bool
) -> None:
    def asked(text: str) -> dict[str, Any]:
        return {"text": text, "voice_id": "v.wav", "seed": 7, "format": "raw_pcm"}

    upload(client, "v.wav", wav(1.1)).raise_for_status()
    async with (
        service.async_client() as clients,
        clients.stream("POST", "/tts/generate", json=asked(HELD)) as running,
    ):
        audio = running.aiter_raw()
        began = await anext(audio)
        queued = asyncio.create_task(clients.post("/tts/generate", json=asked("audio3")))
        await service.until(lambda: service.status()["queue"]["waiting"] == 1)
        if replaced:
            files = {"file": ("v.wav", wav(1.2))}
            changed = await clients.post("/voices?replace=true", files=files)
        else:
            changed = await clients.delete("/voices/v.wav")
        assert changed.is_success
        assert service.status()["queue"]["waiting"] == 1
        rest = b"".join([piece async for piece in audio])
        assert began + rest == expected_pcm(HELD, 7, code(1.1))
        assert (await queued).content == expected_pcm("audio3", 7, code(1.1))
    assert heard(client, "v.wav") == (code(1.2) if replaced else None)


# --- hostile ones ---------------------------------------------------------------------------------


# --- hostile requests -----------------------------------------------------------------------------


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [LIMIT_BYTES + 1, 3 * LIMIT_BYTES])
def test_file_over_the_limit_is_refused(
    client: httpx.Client, service: Service, size: int, chunked: bool
) -> None:
    before = all_files(service)
    body = form(part(bytes(size)))
    answer = upload_raw(client, iter([body]) if chunked else body)
    assert error_code(answer, 413) == "payload_too_large"
    assert answer.json()["error"]["param"] == "file"
    assert all_files(service) == before


def test_aborted_upload_leaves_nothing(client: httpx.Client, service: Service) -> None:
    before = all_files(service)
    body = form(part(wav(5)))
    with service.connect() as connection:
        connection.sendall(
            f"POST /voices HTTP/1.1\r\nHost: x\r\nX-API-Key: {API_KEY}\r\n"
            f"Content-Type: multipart/form-data; boundary={BOUNDARY.decode()}\r\n"
            f"X-Request-ID: broken-off\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body[: len(body) // 2]
        )
    service.wait_until(lambda: "broken-off POST /voices" in service.log())
    assert "Traceback" not in service.log()
    assert all_files(service) == before
    assert client.get("/voices").json() == []


# --- the folder -----------------------------------------------------------------------------------


@pytest.mark.fault(32)
def test_symlink_is_neither_followed_nor_listed(
    client: httpx.Client, service: Service, tmp_path: Path
) -> None:
    target = tmp_path / "elsewhere.wav"
    target.write_bytes(wav(1.1))
    links = [service.voices_dir / "link.wav", service.preloaded_dir / "dir.wav"]
    links[0].symlink_to(target)
    links[1].symlink_to(tmp_path)
    (service.voices_dir / "real.wav").write_bytes(wav(1.2))
    service.wait_until(lambda: client.get("/voices").json() != [], WATCHED_WITHIN_S)
    assert client.get("/voices").json() == ["real.wav"]
    assert heard(client, "link.wav") is None
    assert client.delete("/voices/link.wav").status_code == 404
    assert upload(client, "link.wav", wav(1.3), replace="true").status_code in (201, 409)
    assert target.read_bytes() == wav(1.1)
    for link in links:
        link.unlink(missing_ok=True)


@pytest.mark.fault(34)
async def test_one_of_many_uploads_of_one_name_wins(client: httpx.Client, service: Service) -> None:
    async with service.async_client() as clients:
        answers = await asyncio.gather(
            *(
                clients.post("/voices", files={"file": ("v.wav", wav(1 + n / 100))})
                for n in range(20)
            )
        )
    statuses = [answer.status_code for answer in answers]
    assert sorted(statuses) == [201] + [409] * 19
    assert (service.voices_dir / "v.wav").read_bytes() == wav(1 + statuses.index(201) / 100)
    assert list(service.voices_dir.iterdir()) == [service.voices_dir / "v.wav"]


@pytest.mark.fault(35)
async def test_speech_during_voice_changes_uses_one_exact_version(
    client: httpx.Client, service: Service
) -> None:
    """Interleave a thousand uploads, deletions and generations of one voice."""
    contents = {code(length): wav(length) for length in (1.1, 1.2, 1.3)}
    versions = {expected_pcm("audio1", 7, voice): voice for voice in contents}
    heard: Counter[int | None] = Counter()
    rounds = 0
    for voice, content in contents.items():  # while it exists, its content is not decoded again
        assert upload(client, f"kept-{voice}.wav", content).status_code == 201

    def going_on() -> bool:
        return rounds < 100 or heard.total() < 600

    async def change(clients: httpx.AsyncClient) -> None:
        nonlocal rounds
        while going_on():
            for content in contents.values():
                answer = await clients.post(
                    "/voices?replace=true", files={"file": ("v.wav", content)}
                )
                assert answer.status_code == 201
            assert (await clients.delete("/voices/v.wav")).status_code == 200
            rounds += 1

    async def listen(clients: httpx.AsyncClient) -> None:
        asked = {"text": "audio1", "seed": 7, "format": "raw_pcm", "voice_id": "v.wav"}
        while going_on():
            answer = await clients.get("/tts/generate", params=asked)
            assert answer.status_code in (200, 404)
            heard[versions[answer.content] if answer.status_code == 200 else None] += 1
            await asyncio.sleep(0.005)  # leave CPU time to the decoder

    async with service.async_client() as clients:
        await asyncio.gather(change(clients), *(listen(clients) for _ in range(4)))
    print(f"{rounds} rounds; {heard}")
    assert len(heard) > 2  # no voice, and several versions


@pytest.mark.fault(36)
def test_read_only_voices_folder_fails_only_uploads(client: httpx.Client, service: Service) -> None:
    service.voices_dir.rmdir()
    service.voices_dir.write_text("no folder")
    try:
        assert error_code(upload(client, "v.wav", wav()), 503) == "storage_unavailable"
        assert client.post("/tts/generate", json={"text": "audio1"}).status_code == 200
    finally:
        service.voices_dir.unlink()
        service.voices_dir.mkdir()
    assert upload(client, "v.wav", wav(1.1)).status_code == 201
    assert heard(client, "v.wav") == code(1.1)
