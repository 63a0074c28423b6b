"""Jobs through real workers, with an engine that does what the text says."""

from collections.abc import Callable

from tests.scripted import expected_pcm
from tests.service import Service

RAW = {"format": "raw_pcm"}


def test_a_job_gives_exactly_its_audio(start: Callable[..., Service]) -> None:
    service = start()
    with service.client() as client:
        answer = client.post("/tts/generate", json={"text": "audio30 audio5", "seed": 7, **RAW})
    assert answer.status_code == 200
    assert answer.content == expected_pcm("audio30 audio5", 7)


async def test_a_client_that_leaves_frees_its_slot(start: Callable[..., Service]) -> None:
    service = start()
    async with service.async_client() as client:
        body = {"text": "audio10 " + "sleep0.2 audio1 " * 30, **RAW}
        async with client.stream("POST", "/tts/generate", json=body) as answer:
            await anext(answer.aiter_raw())
            assert service.busy() == 1
        service.wait_until(lambda: service.busy() == 0, 1)
        answer = await client.post("/tts/generate", json={"text": "audio1", **RAW})
        assert answer.status_code == 200
