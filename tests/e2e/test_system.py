"""`/system-status`, `/health`, `/ready` and `/ping`."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic

import pytest

from tests.support.media import audio_file, tone
from tests.support.service import Service, free_port

PROBES = ("/health", "/ready", "/ping")
LOADING = "tests.support.engines:LoadingEngine"


@pytest.fixture
def health_port() -> int:
    return free_port()


@pytest.fixture
def loading(tmp_path: Path, health_port: int) -> Iterator[Service]:
    """A service that answers, and whose worker is not ready before the file `go` exists."""
    service = Service(tmp_path, {"MODEL": LOADING, "PORT_HEALTH": health_port})
    try:
        service.wait_until(service.answers, 20)
        yield service
    finally:
        service.stop()


def test_status_has_the_documented_shape(preview: Service) -> None:
    status = preview.status()
    assert list(status) == ["cpu", "gpus", "workers", "queue", "models"]
    assert list(status["cpu"]) == ["utilization_percent", "ram_gb"]
    assert 0 <= status["cpu"]["utilization_percent"] <= 100
    ram = status["cpu"]["ram_gb"]
    assert list(ram) == ["total", "used", "free", "percent_used"]
    assert all(isinstance(value, float) for value in ram.values())
    assert ram["used"] + ram["free"] == pytest.approx(ram["total"], abs=0.02)
    assert ram["percent_used"] == pytest.approx(100 * ram["used"] / ram["total"], abs=0.5)
    assert isinstance(status["gpus"], list)
    assert status["queue"] == {"waiting": 0, "running": 0, "limit": 100, "retries": 0}


def test_the_status_shows_each_worker(preview: Service) -> None:
    workers = preview.status()["workers"]
    assert len(workers) == 2
    assert len({worker["pid"] for worker in workers}) == 2
    for number, worker in enumerate(workers):
        assert worker["id"] == f"{worker['device']}.{number}"
        assert (worker["state"], worker["slots"], worker["busy"]) == ("ready", 1, 0)
        assert worker["restarts"] == 0
        assert Path(f"/proc/{worker['pid']}").exists()


def test_status_counts_the_workers_that_have_each_voice_prepared(
    start: Callable[..., Service],
) -> None:
    service = start(WORKERS_PER_DEVICE=2)

    def prepared() -> dict[str, int]:
        [model] = service.status()["models"]
        assert (model["id"], model["workers"]) == ("scripted", 2)
        assert all(voice["workers"] == 2 for voice in model["voices"].values())
        return {voice_id: voice["prepared"] for voice_id, voice in model["voices"].items()}

    service.wait_until(lambda: service.ready_workers() == 2)
    assert prepared() == {}
    with service.client() as client:
        for name, seconds in (("b.wav", 1.1), ("a.wav", 1.2)):
            file = (name, audio_file(tone(seconds, 16_000), rate=16_000))
            client.post("/voices", files={"file": file}).raise_for_status()
    service.wait_until(lambda: prepared() == {"a.wav": 2, "b.wav": 2})
    [killed, _] = service.worker_pids()
    os.kill(killed, signal.SIGKILL)
    service.wait_until(lambda: prepared() == {"a.wav": 1, "b.wav": 1})
    service.wait_until(lambda: prepared() == {"a.wav": 2, "b.wav": 2})
    assert killed not in service.worker_pids()
    with service.client() as client:
        client.delete("/voices/b.wav").raise_for_status()
    service.wait_until(lambda: prepared() == {"a.wav": 2})


async def test_status_responds_while_all_workers_are_busy(preview: Service) -> None:
    asked = {"text": "This goes on for a very long time. " * 100, "format": "raw_pcm"}
    async with preview.async_client() as client:
        speaking = [asyncio.create_task(client.post("/tts/generate", json=asked)) for _ in range(3)]
        await preview.until(
            lambda: preview.status()["queue"].items() >= {"waiting": 1, "running": 2}.items()
        )
        assert [worker["busy"] for worker in preview.status()["workers"]] == [1, 1]
        for task in speaking:
            task.cancel()
        await preview.until(lambda: preview.busy() == 0)


def test_engine_notices_are_in_the_status(start: Callable[..., Service]) -> None:
    service = start(MODEL="tests.support.engines:NoteworthyEngine", WORKERS_PER_DEVICE=2)
    service.wait_until(lambda: service.ready_workers() == 2)
    service.wait_until(lambda: all(worker["runaways"] == 3 for worker in service.workers()))
    states = {worker["compiled"]: worker["notice"] for worker in service.workers()}
    assert states == {True: None, False: "not compiled"}
    with service.client() as client:
        health = client.get("/health").json()
    assert (health["compiled"], health["notice"]) == (False, "not compiled")


@pytest.mark.timed
@pytest.mark.fault(16)
def test_a_starting_service_is_alive_but_not_ready(loading: Service, health_port: int) -> None:
    with (
        loading.client() as client,
        loading.client(base_url=f"http://127.0.0.1:{health_port}") as probes,
    ):
        client.get("/health")
        began = monotonic()
        refused = client.post("/tts/generate", json={"text": "audio1"})
        assert monotonic() - began < 0.1
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "not_ready"
        assert client.get("/voices").json() == []
        assert [worker["state"] for worker in loading.workers()] == ["starting"]
        for each in (client, probes):
            assert [each.get(path).status_code for path in PROBES] == [200, 503, 204]
        loading.wait_until(
            lambda: client.get("/ready").json()["error"]["message"].endswith("warms up.")
        )
        (loading.folder / "go").touch()
        loading.wait_ready()
        for each in (client, probes):
            assert [each.get(path).status_code for path in PROBES] == [200, 200, 200]
        for path in ("/", "/voices", "/system-status", "/tts/generate", "/docs", "/openapi.json"):
            assert probes.get(path).status_code == 404
