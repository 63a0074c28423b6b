"""`/voices` with real workers and watched folders; see also `tests/contract/test_voices.py`."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.api import BOUNDARY, all_files, code, error_code, form, heard, part, upload, wav
from tests.support.engines import expected_pcm
from tests.support.service import API_KEY, Service, running_service

WATCHED_WITHIN_S = 6
HELD = "audio10 sleep2 audio1"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("around") / "the-service"
    folder.mkdir()
    with running_service(folder) as service:
        yield service


@pytest.fixture
def client(service: Service) -> Iterator[httpx.Client]:
    """The service has no voice, before and after."""
    with service.client() as client:
        yield client
        for voice_id in client.get("/voices").raise_for_status().json():
            client.delete(f"/voices/{voice_id}").raise_for_status()
        service.wait_until(lambda: client.get("/voices").json() == [])
        assert all_files(service.folder) == {}


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


def test_aborted_upload_leaves_nothing(client: httpx.Client, service: Service) -> None:
    before = all_files(service.folder)
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
    assert all_files(service.folder) == before
    assert client.get("/voices").json() == []


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
    contents = {code(length): wav(length) for length in (1.1, 1.2, 1.3)}
    versions = {expected_pcm("audio1", 7, voice): voice for voice in contents}
    heard: Counter[int | None] = Counter()
    rounds = 0
    for voice, content in contents.items():  # while it exists, its content is not decoded again
        assert upload(client, f"kept-{voice}.wav", content).status_code == 201

    def going_on() -> bool:
        return rounds < 25 or heard.total() < 150

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
