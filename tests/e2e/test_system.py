"""`/system-status`, `/health`, `/ready` and `/ping`."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import httpx
import pytest

from app import __version__
from tests.support.service import Service, free_port

PROBES = ("/health", "/ready", "/ping")
LOADING = "tests.support.engines:LoadingEngine"


@pytest.fixture
def health_port() -> int:
    return free_port()


@pytest.fixture
def loading(tmp_path: Path, health_port: int) -> Iterator[Service]:
    """A service whose worker is not ready before `finish_loading`."""
    service = Service(tmp_path, {"MODEL": LOADING, "PORT_HEALTH": health_port})
    try:
        service.wait_until(lambda: answers(service), 20)
        yield service
    finally:
        service.stop()


def answers(service: Service) -> bool:
    try:
        return bool(service.status()["workers"])
    except httpx.TransportError:
        return False


def finish_loading(service: Service) -> None:
    (service.folder / "go").touch()
    service.wait_ready()


def test_status_has_the_documented_shape(preview: Service) -> None:
    status = preview.status()
    assert list(status) == ["cpu", "gpus", "workers", "queue"]
    assert list(status["cpu"]) == ["utilization_percent", "ram_gb"]
    assert 0 <= status["cpu"]["utilization_percent"] <= 100
    ram = status["cpu"]["ram_gb"]
    assert list(ram) == ["total", "used", "free", "percent_used"]
    assert all(isinstance(value, float) for value in ram.values())
    assert ram["used"] + ram["free"] == pytest.approx(ram["total"], abs=0.02)
    assert ram["percent_used"] == pytest.approx(100 * ram["used"] / ram["total"], abs=0.5)
    assert isinstance(status["gpus"], list)
    assert status["queue"] == {"waiting": 0, "running": 0, "limit": 100, "retries": 0}


def test_status_has_each_worker(preview: Service) -> None:
    workers = preview.status()["workers"]
    assert len(workers) == 2
    assert len({worker["pid"] for worker in workers}) == 2
    for number, worker in enumerate(workers):
        assert worker["id"] == f"{worker['device']}.{number}"
        assert (worker["state"], worker["slots"], worker["busy"]) == ("ready", 1, 0)
        assert worker["restarts"] == 0
        assert Path(f"/proc/{worker['pid']}").exists()


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


def test_ready_service_passes_every_probe(preview: Service) -> None:
    with preview.client(headers={}) as stranger:
        for method in ("GET", "HEAD"):
            for path in PROBES:
                assert stranger.request(method, path).status_code == 200
        health = stranger.get("/health").json()
        assert stranger.get("/ready").json() == {"status": "ready"}
    assert "ignores voice_id" in health.pop("notice")
    assert health == {
        "status": "ready",
        "model": "preview",
        "version": __version__,
        "compiled": False,
    }


def test_engine_notices_are_in_the_status(start: Callable[..., Service]) -> None:
    service = start(MODEL="tests.support.engines:NoteworthyEngine", WORKERS_PER_DEVICE=2)
    service.wait_until(lambda: service.ready_workers() == 2)
    service.wait_until(lambda: all(worker["runaways"] == 3 for worker in workers(service)))
    states = {worker["compiled"]: worker["notice"] for worker in workers(service)}
    assert states == {True: None, False: "not compiled"}
    with service.client() as client:
        health = client.get("/health").json()
    assert (health["compiled"], health["notice"]) == (False, "not compiled")


def workers(service: Service) -> list[dict[str, Any]]:
    return service.status()["workers"]


@pytest.mark.timed
@pytest.mark.fault(16)
def test_starting_service_is_alive_but_not_ready(loading: Service) -> None:
    with loading.client() as client:
        client.get("/health")
        began = monotonic()
        refused = client.post("/tts/generate", json={"text": "audio1"})
        assert monotonic() - began < 0.1
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "not_ready"
        assert int(refused.headers["Retry-After"]) > 0
        assert client.get("/health").json()["status"] == "starting"
        assert client.get("/voices").json() == []
        assert [worker["state"] for worker in loading.status()["workers"]] == ["starting"]
        assert [client.get(path).status_code for path in PROBES] == [200, 503, 204]
        loading.wait_until(
            lambda: client.get("/ready").json()["error"]["message"].endswith("warms up.")
        )
        finish_loading(loading)
        assert [client.get(path).status_code for path in PROBES] == [200, 200, 200]


def test_health_port_serves_only_probes(loading: Service, health_port: int) -> None:
    with loading.client(base_url=f"http://127.0.0.1:{health_port}") as client:
        assert [client.get(path).status_code for path in PROBES] == [200, 503, 204]
        finish_loading(loading)
        assert [client.get(path).status_code for path in PROBES] == [200, 200, 200]
        for path in ("/", "/voices", "/system-status", "/tts/generate", "/docs", "/openapi.json"):
            assert client.get(path).status_code == 404
