"""Jobs through real workers: each client's own audio, the queue's timeout and cancellation."""

import asyncio
import io
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.engines import expected_pcm, voice_code
from tests.support.http_client import connections, error_code, speech, speech_params
from tests.support.media import audio_file, tone
from tests.support.service import Service, running_service

ROUTE = "/tts/generate"
SLOTS = 4


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Two workers with two slots each, and a short queue timeout."""
    with running_service(
        tmp_path_factory.mktemp("jobs"),
        WORKERS_PER_DEVICE=2,
        CONCURRENT_REQUESTS_PER_WORKER=SLOTS // 2,
        QUEUE_TIMEOUT_SECONDS=2,
        LOG_LEVEL="DEBUG",
    ) as service:
        service.wait_until(lambda: service.ready_workers() == 2)
        yield service


async def speak(client: httpx.AsyncClient, text: str, **values: Any) -> bytes:
    answer = await client.post(ROUTE, json=speech_params(text, **values))
    assert answer.status_code == 200, answer.text
    return answer.content


@pytest.mark.covers("client isolation")
async def test_each_of_many_clients_gets_its_own_text_seed_and_voice(service: Service) -> None:
    codes = {"": 0}
    async with service.async_client() as client:
        for number in range(3):
            samples = tone(1 + number / 10, hz=200 + number)
            voice_id = f"voice {number}.wav"
            codes[voice_id] = voice_code(samples)
            files = {"file": (voice_id, io.BytesIO(audio_file(samples)))}
            assert (await client.post("/voices", files=files)).status_code == 201
        assert len(set(codes.values())) == 4

        async def check(number: int) -> None:
            voice_id = list(codes)[number % 4]
            text = f"audio{10 + number} sleep0.01 audio{number + 1}"
            asked = {"voice_id": voice_id} if voice_id else {}
            audio = await speak(client, text, seed=number, **asked)
            assert audio == expected_pcm(text, number, codes[voice_id])

        await asyncio.gather(*map(check, range(20)))


@pytest.mark.covers("client isolation")
async def test_speech_is_equal_alone_and_among_many(preview: Service) -> None:
    texts = [f"Request {number}." for number in range(8)]
    async with preview.async_client() as client:
        alone = [await speak(client, text, seed=seed) for seed, text in enumerate(texts)]
        among = await asyncio.gather(
            *(speak(client, text, seed=seed) for seed, text in enumerate(texts))
        )
    assert among == alone
    assert len(set(alone)) == len(texts)


@pytest.mark.fault(17)
async def test_queue_timeout_is_an_error_and_job_never_runs(service: Service) -> None:
    async with (
        connections(service, [speech("sleep60")] * SLOTS),
        service.async_client() as client,
    ):
        await service.until(lambda: service.busy() == SLOTS)
        headers = {"X-Request-ID": "too-late"}
        answer = await client.post(ROUTE, json=speech_params("audio1"), headers=headers)
        assert error_code(answer, 503) == "queue_timeout"
        assert "Retry-After" in answer.headers
        assert service.queue("waiting") == 0
    await service.until(lambda: service.busy() == 0)
    sent = re.findall(r"job (\S*)#\d+ sent to worker", service.log())
    assert sent
    assert "too-late" not in sent


@pytest.mark.timed
async def test_client_leaving_during_stream_releases_its_slot(preview: Service) -> None:
    text = "This goes on for a very long time. " * 100
    async with (
        preview.async_client() as client,
        client.stream("POST", ROUTE, json=speech_params(text)) as answer,
    ):
        audio = answer.aiter_raw()
        assert await anext(audio)
        assert preview.busy() == 1
    await preview.until(lambda: preview.busy() == 0, 1)
