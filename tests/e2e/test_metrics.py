"""`/metrics` agrees with a known load; `tests/contract/test_metrics.py` has its form and access."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tests.support.http_client import speech_params
from tests.support.service import Service, running_service

ROUTE = "/tts/generate"
SPEECH = {"route": ROUTE, "method": "POST"}

Labels = frozenset[tuple[str, str]]
Series = dict[tuple[str, Labels], float]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One worker with one slot and a queue of one; its metrics need no key."""
    with running_service(
        tmp_path_factory.mktemp("metrics"),
        MAX_QUEUED_REQUESTS=1,
        PUBLIC_METRICS="true",
        MAX_AHEAD_SECONDS=1,
    ) as service:
        yield service


def series(service: Service) -> Series:
    """Return the metrics, without sending a key."""
    with service.client(headers={}) as client:
        text = client.get("/metrics").raise_for_status().text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parse_text(text)
        for sample in family.samples
    }


def risen(before: Series, after: Series) -> Callable[..., float]:
    """`(name, label=…)` returns the increase of that metric."""

    def by(name: str, **labels: str) -> float:
        key = (name, frozenset(labels.items()))
        return after.get(key, 0) - before.get(key, 0)

    return by


def value(service: Service, name: str, **labels: str) -> float | None:
    return series(service).get((name, frozenset(labels.items())))


async def test_counters_match_a_known_load(service: Service) -> None:
    service.wait_until(lambda: service.busy() == 0)
    before = series(service)
    async with service.async_client() as client:
        for _ in range(5):
            assert (
                await client.post(ROUTE, json=speech_params("audio25 audio25"))
            ).status_code == 200
        assert (
            await client.post(ROUTE, json=speech_params("audio25", format="mp3"))
        ).status_code == 200
        for text, status in (("raise audio1", 500), ("oom audio1", 503), ("?", 400)):
            assert (await client.post(ROUTE, json=speech_params(text))).status_code == status
        assert (
            await client.post(ROUTE, json=speech_params("a", voice_id="no.wav"))
        ).status_code == 404
        assert (await client.get("/nothing")).status_code == 404
        assert (await client.delete("/voices/no.wav")).status_code == 404
        for _ in range(3):
            assert (await client.get(ROUTE, headers={"X-API-Key": "no"})).status_code == 401
        await leave(service, client)
    after = series(service)
    rise = risen(before, after)
    for status, count in ((200, 7), (500, 1), (503, 1), (400, 1), (404, 1), (429, 1), (499, 1)):
        assert rise("tts_http_requests_total", **SPEECH, status=str(status)) == count
    of_voices = {"route": "/voices/{voice_id}", "method": "DELETE"}
    assert rise("tts_http_requests_total", **of_voices, status="404") == 1
    for status, count in ((401, 3), (404, 1)):
        by = {"route": "other", "method": "GET", "status": str(status)}
        assert rise("tts_http_requests_total", **by) == count
    assert rise("tts_http_request_duration_seconds_count", **SPEECH) == 13
    assert rise("tts_http_requests_aborted_total", route=ROUTE) == 2
    for outcome, count in (
        ("done", 6),
        ("cancelled", 2),
        ("engine_error", 1),
        ("out_of_memory", 1),
    ):
        assert rise("tts_jobs_total", outcome=outcome) == count
    assert rise("tts_characters_total") == 5 * len("audio25 audio25") + len("audio25")
    assert rise("tts_audio_seconds_total") == pytest.approx(5 * 2 + 1 + 1, abs=0.5)
    assert rise("tts_job_wait_seconds_count") == 10
    assert rise("tts_job_first_audio_seconds_count") == 7
    assert rise("tts_job_realtime_factor_count") == 6
    assert rise("tts_job_realtime_factor_sum") < 6
    assert 0 < rise("tts_encoder_cpu_seconds_total", media_type="audio/mpeg") < 5


async def leave(service: Service, client: httpx.AsyncClient) -> None:
    """Leave during a stream and in the queue, and be refused once by the full queue."""
    async with client.stream("POST", ROUTE, json=speech_params("audio25 sleep60")) as answer:
        audio = answer.aiter_raw()
        assert await anext(audio)
        waiting = asyncio.create_task(client.post(ROUTE, json=speech_params("audio1")))
        await service.until(lambda: value(service, "tts_queue_waiting_jobs") == 1)
        assert value(service, "tts_running_jobs") == 1
        assert value(service, "tts_worker_busy_slots", worker="cpu.0") == 1
        assert value(service, "tts_queue_limit_jobs") == 1
        assert (await client.post(ROUTE, json=speech_params("audio1"))).status_code == 429
        waiting.cancel()
        with suppress(asyncio.CancelledError):
            await waiting
        await service.until(lambda: value(service, "tts_queue_waiting_jobs") == 0)
    await service.until(lambda: value(service, "tts_running_jobs") == 0)


async def test_engine_failure_is_not_counted_as_client_abort(service: Service) -> None:
    before = series(service)
    async with service.async_client() as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.post(ROUTE, json=speech_params("audio25 sleep0.3 raise"))
    rise = risen(before, series(service))
    assert rise("tts_http_requests_total", **SPEECH, status="200") == 1
    assert rise("tts_jobs_total", outcome="engine_error") == 1
    assert rise("tts_http_requests_aborted_total", route=ROUTE) == 0


@pytest.mark.timed
async def test_underrun_is_counted_and_slow_reader_is_not(service: Service) -> None:
    before = series(service)
    async with service.async_client() as client:
        asked = speech_params("audio5 sleep0.7 audio5")
        assert (await client.post(ROUTE, json=asked)).status_code == 200
        rise = risen(before, series(service))
        assert rise("tts_underruns_total") == 1
        assert 0.3 < rise("tts_underrun_seconds_total") < 0.8
        asked = speech_params("audio50 " * 20)
        async with client.stream("POST", ROUTE, json=asked) as answer:
            await asyncio.sleep(1.5)  # of 1 s of audio that it may be ahead
            async for _ in answer.aiter_raw():
                pass
    assert risen(before, series(service))("tts_underruns_total") == 1


async def test_restarts_and_retries_are_counted_during_scrapes(
    service: Service,
) -> None:
    before = series(service)
    [pid] = service.worker_pids()
    async with service.async_client() as client:
        speaking = asyncio.create_task(client.post(ROUTE, json=speech_params("sleep0.5 audio25")))
        await service.until(lambda: value(service, "tts_running_jobs") == 1)
        os.kill(pid, signal.SIGKILL)
        states = set()
        while not speaking.done():
            now = await asyncio.to_thread(series, service)
            states |= {state for state in STATES if now[of_worker("state", state=state)]}
            assert sum(now[of_worker("state", state=state)] for state in STATES) == 1
        assert (await speaking).status_code == 200
    assert states == {"ready", "restarting"}
    after = series(service)
    assert after.keys() >= before.keys()
    rise = risen(before, after)
    assert rise("tts_worker_restarts_total", worker="cpu.0") == 1
    assert rise("tts_job_retries_total") == 1
    assert rise("tts_jobs_total", outcome="done") == 1
    assert rise("tts_job_wait_seconds_count") == 1


STATES = ("starting", "ready", "restarting", "idle", "failed", "stopped")


def of_worker(name: str, **labels: str) -> tuple[str, Labels]:
    return f"tts_worker_{name}", frozenset((labels | {"worker": "cpu.0"}).items())


def test_metrics_show_build_voices_and_process_resources(preview: Service) -> None:
    with preview.client() as client:
        found = {family.name: family for family in parse_text(client.get("/metrics").text)}
        voices = len(client.get("/voices").json())
        version = client.get("/health").json()["version"]
    [build] = found["tts_build_info"].samples
    assert build.labels == {"version": version, "model": "preview"}
    assert found["tts_voices"].samples[0].value == voices > 0
    for name in ("tts_worker_cpu_seconds", "tts_worker_resident_memory_bytes"):
        figures = {sample.labels["worker"]: sample.value for sample in found[name].samples}
        assert figures.keys() == {"cpu.0", "cpu.1"}
        assert min(figures.values()) > 0
    assert found["process_resident_memory_bytes"].samples[0].value > 20e6
    assert not [name for name in found if name.startswith("tts_gpu")]
