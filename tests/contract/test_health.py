"""Probes, `/system-status` and speech in each state of the backend."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from app import __version__
from app.backend.base import ServiceState
from tests.support.api import both, refusal
from tests.support.contract import ContractService
from tests.support.fake_backend import FakeBackend

STATES: dict[ServiceState, tuple[list[int], str | None]] = {
    "starting": ([200, 503, 204], "not_ready"),
    "ready": ([200, 200, 200], None),
    "draining": ([200, 503, 204], "shutting_down"),
    "degraded": ([200, 503, 204], "not_ready"),
}
"""Statuses of /health, /ready and /ping, and the code of refused speech."""


@pytest.fixture
def backend(service: ContractService) -> Iterator[FakeBackend]:
    """The service's backend, which is ready and has places in its queue before and after."""
    yield service.backend
    service.backend.state = "ready"
    service.backend.queue_is_full = False


@pytest.mark.parametrize("state", STATES)
def test_probes_and_speech_follow_the_state(
    backend: FakeBackend, client: httpx.Client, state: ServiceState
) -> None:
    backend.state = state
    statuses, code = STATES[state]
    paths = ("/health", "/ready", "/ping")
    for method in ("GET", "HEAD"):
        assert [client.request(method, path).status_code for path in paths] == statuses
    assert client.get("/health").json() == {
        "status": state,
        "model": "scripted",
        "version": __version__,
        "compiled": False,
        "notice": None,
    }
    if code is None:
        assert client.get("/ready").json() == {"status": "ready"}
        return
    openai = client.post("/v1/audio/speech", json={"input": "audio1", "voice": "nobody"})
    for answer in (client.get("/ready"), *both(client, text="audio1"), openai):
        assert refusal(answer, 503)["code"] == code
        assert (answer.headers["Retry-After"], answer.headers["X-Should-Retry"]) == ("5", "true")


def test_full_queue_is_refused_with_retry_after(backend: FakeBackend, client: httpx.Client) -> None:
    backend.queue_is_full = True
    for answer in both(client, text="audio1"):
        error = refusal(answer, 429)
        assert (error["code"], error["type"]) == ("queue_full", "rate_limit_error")
        assert answer.headers["Retry-After"] == "5"


def test_failure_of_the_engine_is_an_error_without_its_cause(client: httpx.Client) -> None:
    for answer in both(client, text="raise"):
        error = refusal(answer, 500)
        assert (error["code"], error["type"]) == ("engine_error", "server_error")
        assert error["message"] == "The speech engine failed."


def test_system_status_shows_workers_and_queue(client: httpx.Client) -> None:
    status: dict[str, Any] = client.get("/system-status").json()
    [worker] = status["workers"]
    assert worker.items() >= {"id": "cpu.0", "state": "ready", "slots": 1, "busy": 0}.items()
    assert status["queue"] == {"waiting": 0, "running": 0, "limit": 100, "retries": 0}
