"""Jobs through real workers: audio, slots, the queue and cancellation."""

import asyncio
import io
import random
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import psutil
import pytest

from tests.support.engines import expected_pcm, voice_code
from tests.support.http_client import read_bytes, slow_connection, speech, speech_params
from tests.support.media import audio_file, tone
from tests.support.service import API_KEY, Service, running_service

ROUTE = "/tts/generate"
RAW = {"format": "raw_pcm"}
QUEUED = 3
AHEAD_S = 2
HELD = "audio10 sleep60"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Two workers with one slot each."""
    with running_service(tmp_path_factory.mktemp("pair"), WORKERS_PER_DEVICE=2) as service:
        service.wait_until(lambda: service.ready_workers() == 2)
        yield service


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One worker with one slot, and few places to wait."""
    folder = tmp_path_factory.mktemp("single")
    with running_service(folder, MAX_QUEUED_REQUESTS=QUEUED, LOG_LEVEL="DEBUG") as service:
        yield service


@pytest.fixture(scope="module")
def short_timeouts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One worker with two slots and short timeouts for queue and stalled clients."""
    with running_service(
        tmp_path_factory.mktemp("short_timeouts"),
        CONCURRENT_REQUESTS_PER_WORKER=2,
        QUEUE_TIMEOUT_SECONDS=0.5,
        MAX_AHEAD_SECONDS=AHEAD_S,
        CLIENT_STALL_SECONDS=3,
        LOG_LEVEL="DEBUG",
    ) as service:
        yield service


async def speak(client: httpx.AsyncClient, text: str, name: str = "", **values: Any) -> bytes:
    """Return the audio; `name` is the request's id."""
    headers = {"X-Request-ID": name}
    answer = await client.post(ROUTE, json=speech_params(text, **values), headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.content


@asynccontextmanager
async def held_slot(client: httpx.AsyncClient) -> AsyncIterator[None]:
    """Open a stream that lasts until exit."""
    async with client.stream("POST", ROUTE, json=speech_params(HELD)) as answer:
        audio = answer.aiter_raw()  # dropped, it would close the connection
        assert await anext(audio)
        yield


def started(service: Service) -> list[str]:
    """Return the ids of all requests that were sent to a worker, in order."""
    return re.findall(r"job (\S*)#\d+ sent to worker", service.log())


async def queued(
    service: Service, client: httpx.AsyncClient, names: list[str]
) -> list["asyncio.Task[bytes]"]:
    """Queue requests one after the other."""
    tasks = []
    for name in names:
        before = service.queue("waiting")
        tasks.append(asyncio.create_task(speak(client, "audio1", name)))
        await service.until(lambda before=before: service.queue("waiting") == before + 1)
    return tasks


# --- audio ----------------------------------------------------------------------------------------


def test_job_returns_exactly_its_audio(single: Service) -> None:
    with single.client() as client:
        answer = client.post(ROUTE, json=speech_params("audio30 audio5"))
    assert answer.status_code == 200
    assert answer.content == expected_pcm("audio30 audio5", 7)


@pytest.mark.covers("client isolation")
async def test_each_of_many_clients_gets_its_own_text_seed_and_voice(pair: Service) -> None:
    codes = {"": 0}
    async with pair.async_client() as client:
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
async def test_speech_is_equal_alone_and_among_twenty(preview: Service) -> None:
    texts = [f"Request {number}." for number in range(20)]
    async with preview.async_client() as client:
        alone = [await speak(client, text, seed=seed) for seed, text in enumerate(texts)]
        among = await asyncio.gather(
            *(speak(client, text, seed=seed) for seed, text in enumerate(texts))
        )
    assert among == alone
    assert len(set(alone)) == 20


async def test_long_text_is_complete_with_small_credit(short_timeouts: Service) -> None:
    text = "audio50 " * 20
    async with short_timeouts.async_client() as client:
        audio = await speak(client, text)
    assert len(audio) > 5 * AHEAD_S * 48_000
    assert audio == expected_pcm(text, 7)


# --- slots ----------------------------------------------------------------------------------------


async def test_every_worker_takes_a_job(pair: Service) -> None:
    async with pair.async_client() as client, held_slot(client), held_slot(client):
        workers = pair.status()["workers"]
        assert [worker["id"].split(".")[1] for worker in workers] == ["0", "1"]
        assert [worker["busy"] for worker in workers] == [1, 1]
        assert pair.queue("running") == 2


async def test_worker_runs_as_many_jobs_as_slots(short_timeouts: Service) -> None:
    async with short_timeouts.async_client() as client, held_slot(client), held_slot(client):
        [worker] = short_timeouts.status()["workers"]
        assert (worker["slots"], worker["busy"]) == (2, 2)


async def test_long_job_does_not_delay_short_ones(pair: Service) -> None:
    async with pair.async_client() as client, held_slot(client):
        for seed in range(6):
            assert await speak(client, "audio2", seed=seed) == expected_pcm("audio2", seed)
        assert pair.busy() == 1


@pytest.mark.covers("text privacy")
async def test_job_is_two_log_lines_without_its_text(pair: Service) -> None:
    async with pair.async_client() as client:
        for text, outcome in (("audio5 audio20", "done"), ("audio5 raise", "failed")):
            name = f"named-{outcome}"
            headers = {"X-Request-ID": name}
            await client.post(
                ROUTE, json=speech_params(text, format="mp3", stream=False), headers=headers
            )
            await pair.until(lambda name=name: f"{name} POST" in pair.log())
            of_job, of_request = lines_of_master(pair, name)
            assert re.search(
                rf"job {name}#\d+ {outcome}.*: characters={len(text)} worker=\S+ wait_s=\S+ .*"
                r"audio_s=\S+ total_s=\d",
                of_job,
            )
            assert f"{name} POST {ROUTE} " in of_request
    [done] = [line for line in lines_of_master(pair, "named-done") if "#" in line]
    assert "first_audio_s=" in done
    assert "audio_s=1.000 " in done
    assert " 200 audio/mpeg " in pair.log()
    for secret in ("audio5", "audio20", API_KEY):
        assert secret not in pair.log()


def lines_of_master(service: Service, name: str) -> list[str]:
    return [line for line in service.log().splitlines() if name in line and " master: " in line]


# --- the queue ------------------------------------------------------------------------------------


@pytest.mark.fault(15)
async def test_queue_is_first_in_first_out(single: Service) -> None:
    names = ["one", "two", "three"]
    async with single.async_client() as client:
        async with held_slot(client):
            waiting = await queued(single, client, names)
            assert not set(names) & set(started(single))
        assert await asyncio.gather(*waiting) == [expected_pcm("audio1", 7)] * 3
    assert [name for name in started(single) if name in names] == names


@pytest.mark.fault(15)
async def test_full_queue_refuses_at_once(single: Service) -> None:
    async with single.async_client() as client:
        async with held_slot(client):
            answers = [
                asyncio.create_task(client.post(ROUTE, json=speech_params("audio1")))
                for _ in range(60)
            ]
            await single.until(lambda: sum(task.done() for task in answers) == 60 - QUEUED)
            assert single.queue("waiting") == single.queue("limit") == QUEUED
            refused = [task.result() for task in answers if task.done()]
        served = [answer for answer in await asyncio.gather(*answers) if answer not in refused]
    for answer in refused:
        assert answer.status_code == 429
        assert int(answer.headers["Retry-After"]) > 0
        assert answer.json()["error"]["type"] == "rate_limit_error"
    assert [answer.content for answer in served] == [expected_pcm("audio1", 7)] * QUEUED


@pytest.mark.fault(17)
async def test_queue_timeout_is_an_error_and_job_never_runs(short_timeouts: Service) -> None:
    async with short_timeouts.async_client() as client, held_slot(client), held_slot(client):
        headers = {"X-Request-ID": "too-late"}
        answer = await client.post(ROUTE, json=speech_params("audio1"), headers=headers)
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "queue_timeout"
        assert "Retry-After" in answer.headers
        assert short_timeouts.queue("waiting") == 0
    assert "too-late" not in started(short_timeouts)


# --- clients that leave ---------------------------------------------------------------------------


async def test_client_leaving_the_queue_frees_its_place_and_never_runs(single: Service) -> None:
    async with single.async_client() as client:
        async with held_slot(client):
            first, left, last = await queued(single, client, ["before", "left", "after"])
            left.cancel()
            await single.until(lambda: single.queue("waiting") == 2, 1)
            [late] = await queued(single, client, ["late"])
        await asyncio.gather(first, last, late)
    assert [name for name in started(single) if name][-3:] == ["before", "after", "late"]
    assert "left" not in started(single)


@pytest.mark.timed
@pytest.mark.parametrize("text", ["sleep60", HELD, "audio10 " + "sleep0.2 audio1 " * 30])
async def test_leaving_client_releases_its_slot(single: Service, text: str) -> None:
    async with single.async_client() as client:
        leaving = asyncio.create_task(speak(client, text))
        await single.until(lambda: single.busy() == 1)
        leaving.cancel()
        await single.until(lambda: single.busy() == 0, 1)
        assert await speak(client, "audio1") == expected_pcm("audio1", 7)


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


@pytest.mark.timed
async def test_leaving_clients_leak_nothing(pair: Service) -> None:
    moments = random.Random(1)
    text = "audio5 sleep0.02 audio5 sleep0.02 audio5"
    processes = [psutil.Process(pid) for pid in (pair.process.pid, *pair.worker_pids())]

    async def leave(client: httpx.AsyncClient) -> None:
        try:
            async with asyncio.timeout(moments.uniform(0, 0.08)):
                assert await speak(client, text) == expected_pcm(text, 7)
        except TimeoutError:
            pass

    async def all_leave() -> list[int]:
        async with pair.async_client() as client:
            await asyncio.gather(*(leave(client) for _ in range(40)))
            await pair.until(lambda: pair.busy() == pair.queue("waiting") == 0, 2)
            assert await speak(client, text) == expected_pcm(text, 7)
        await pair.until(lambda: not pair.connections())
        return [process.num_fds() for process in processes]

    before = await all_leave()
    after = await all_leave()
    assert all(abs(now - then) <= 2 for now, then in zip(after, before, strict=True))


# --- clients that do not read ---------------------------------------------------------------------


@pytest.mark.timed
@pytest.mark.fault(12)
async def test_client_that_does_not_read_is_cut_off_and_delays_no_other(
    short_timeouts: Service,
) -> None:
    """Its job pauses, the other slot continues, and the client is finally cut off."""
    text = "audio50 " * 400
    whole_s = 400 * AHEAD_S
    with slow_connection(short_timeouts, speech(text)) as stalled:
        await short_timeouts.until(lambda: short_timeouts.busy() == 1)
        async with short_timeouts.async_client() as client:
            beside = "audio50 " * 10
            audio = await speak(client, beside)
            assert audio == expected_pcm(beside, 7)
        assert short_timeouts.busy() == 1
        await short_timeouts.until(lambda: short_timeouts.busy() == 0)
        received = await asyncio.to_thread(read_bytes, stalled)
    assert not received.endswith(b"0\r\n\r\n")
    [made_s] = re.findall(r"client_stalled.* audio_s=([\d.]+)", short_timeouts.log())
    assert float(made_s) < whole_s / 2
    ahead_s = float(made_s) - len(received) / 48_000
    assert ahead_s <= 3 * AHEAD_S  # the credit, the piece that crosses it, and one at the socket
