"""Several models in one service, each with workers of its own."""

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from os import kill
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import httpx
import pytest

from app.core.cpu import cpu_count
from tests.support.api import SPEECH, code, error_code, heard, upload, wav
from tests.support.engines import OTHER_VOICE, expected_pcm
from tests.support.service import SCRIPTED, Service, running_service

OTHER = "tests.support.engines:OtherEngine"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("models")
    settings = {"TTS_SYNTHESIS_TEMPERATURE": 1, "CONCURRENT_REQUESTS_PER_WORKER": "auto"}
    with running_service(folder, MODEL=f"{SCRIPTED},{OTHER}", **settings) as both:
        both.wait_until(both.all_ready)
        yield both


@pytest.fixture
def client(service: Service) -> Iterator[httpx.Client]:
    with service.client() as client:
        yield client


def speak(client: httpx.Client, text: str = "audio3", **values: Any) -> httpx.Response:
    asked = {"text": text, "seed": 7, "format": "raw_pcm", "crossfade_duration_milliseconds": 0}
    return client.post(SPEECH, json=asked | values)


def worker_of(service: Service, model: str) -> dict[str, Any]:
    [worker] = [each for each in service.workers() if each["id"].startswith(f"{model}.")]
    return worker


@pytest.mark.parametrize(
    ("model", "name", "voice"),
    [
        (None, "scripted", 0),
        ("scripted", "scripted", 0),
        (SCRIPTED, "scripted", 0),
        ("other", "other", OTHER_VOICE),
        (OTHER, "other", OTHER_VOICE),
    ],
)
def test_job_goes_to_its_model(
    client: httpx.Client, model: str | None, name: str, voice: int
) -> None:
    answer = speak(client, **({"model": model} if model else {}))
    assert answer.headers["X-TTS-Model"] == name
    assert answer.content == expected_pcm("audio3", 7, voice)
    query = {"text": "audio1"} | ({"model": model} if model else {})
    assert client.head(SPEECH, params=query).headers["X-TTS-Model"] == name


def test_unknown_model_is_refused(client: httpx.Client) -> None:
    assert error_code(speak(client, model="tts-1"), 404) == "model_not_found"
    asked = {"input": "audio1", "model": "nonesuch"}
    assert error_code(client.post("/v1/audio/speech", json=asked), 404) == "model_not_found"
    assert client.head(SPEECH, params={"text": "a", "model": "x"}).status_code == 404


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("tts-1", "scripted"),
        ("eleven_turbo_v2_5", "scripted"),
        ("", "scripted"),
        ("other", "other"),
    ],
)
def test_openai_route_takes_foreign_names_for_the_default(
    client: httpx.Client, model: str, name: str
) -> None:
    asked = {"input": "audio1", "model": model, "response_format": "pcm"}
    answer = client.post("/v1/audio/speech", json=asked).raise_for_status()
    assert answer.headers["X-TTS-Model"] == name


def test_models_are_listed_with_languages_and_tags(client: httpx.Client) -> None:
    listed = {each["id"]: each for each in client.get("/v1/models").json()["data"]}
    assert list(listed)[:3] == ["scripted", "other", "tts-1"]
    assert (listed["scripted"]["languages"], listed["scripted"]["tags"]) == (["en"], [])
    assert listed["other"]["languages"] == ["en", "de"]
    assert listed["other"]["tags"] == ["laugh", "sigh"]
    assert listed["tts-1"] == listed["scripted"] | {"id": "tts-1"}
    assert client.get("/v1/models/other").json() == listed["other"]


def test_unused_parameters_are_named(client: httpx.Client) -> None:
    assert "X-TTS-Notice" not in speak(client, min_p=0.1).headers
    assert "X-TTS-Notice" not in speak(client, model="other", top_p=0.5).headers
    answer = speak(client, model="other", min_p=0.1, cfg_weight=0)
    assert answer.headers["X-TTS-Notice"] == "other ignores min_p, cfg_guidance_weight"


def test_state_of_each_model_is_shown(service: Service, client: httpx.Client) -> None:
    states = {"scripted": "ready", "other": "ready"}
    assert client.get("/ready").json() == {"status": "ready", "models": states}
    assert client.get("/health").json()["models"] == states
    status = service.status()
    assert [each["id"] for each in status["workers"]] == [
        "ScriptedEngine.cpu.0",
        "OtherEngine.cpu.0",
    ]
    assert [each["slots"] for each in status["workers"]] == [1, 1]
    assert [(each["id"], each["workers"]) for each in status["models"]] == [
        ("scripted", 1),
        ("other", 1),
    ]
    metrics = client.get("/metrics").text
    for model in states:
        assert f'tts_model_ready{{model="{model}"}} 1.0' in metrics


def test_each_worker_may_use_all_cores_but_its_threads_wait_without_spinning(
    service: Service,
) -> None:
    for worker in service.workers():
        variables = Path(f"/proc/{worker['pid']}/environ").read_text().split("\0")
        assert {f"OMP_NUM_THREADS={cpu_count()}", "OMP_WAIT_POLICY=PASSIVE"} <= set(variables)


def test_each_model_prepares_the_voices(service: Service, client: httpx.Client) -> None:
    upload(client, "mine.wav", wav()).raise_for_status()
    prepared = {"prepared": 1, "workers": 1}
    service.wait_until(
        lambda: all(
            model["voices"] == {"mine.wav": prepared} for model in service.status()["models"]
        )
    )
    assert heard(client, "mine.wav") == code(1.0)
    answer = speak(client, model="other", voice_id="mine.wav")
    assert answer.content == expected_pcm("audio3", 7, code(1.0) + OTHER_VOICE)


def test_each_model_has_its_own_queue(service: Service, client: httpx.Client) -> None:
    """A job of one model does not wait for those of the other."""
    with ThreadPoolExecutor(2) as threads:
        held = [threads.submit(speak, client, "sleep0.7 audio1", model="other") for _ in range(2)]
        service.wait_until(lambda: service.queue("waiting") == 1)
        waiting = {each["id"]: each["waiting"] for each in service.status()["models"]}
        assert waiting == {"scripted": 0, "other": 1}
        speak(client).raise_for_status()
        assert service.queue("waiting") == 1
        assert all(each.result().status_code == 200 for each in held)


def test_killed_worker_of_one_model_leaves_the_others_alone(
    service: Service, client: httpx.Client
) -> None:
    other, pid = worker_of(service, "OtherEngine"), worker_of(service, "ScriptedEngine")["pid"]
    with ThreadPoolExecutor(2) as threads:
        beside = threads.submit(speak, client, "sleep0.5 audio3", model="other")
        service.wait_until(lambda: service.busy() == 1)
        kill(pid, signal.SIGKILL)
        service.wait_until(lambda: worker_of(service, "ScriptedEngine")["pid"] != pid)
        assert client.get("/ready").status_code == 200
        retried = threads.submit(speak, client)
        assert beside.result().content == expected_pcm("audio3", 7, OTHER_VOICE)
        assert retried.result().content == expected_pcm("audio3", 7)
    now = worker_of(service, "OtherEngine")
    assert (now["pid"], now["restarts"]) == (other["pid"], 0)
    assert worker_of(service, "ScriptedEngine")["restarts"] == 1


@pytest.mark.heavy
def test_idle_model_leaves_while_the_other_speaks(tmp_path: Path) -> None:
    with (
        running_service(tmp_path, MODEL=f"{SCRIPTED},{OTHER}", MODEL_IDLE_SECONDS=1) as service,
        service.client() as client,
    ):
        service.wait_until(
            lambda: {worker["state"] for worker in service.workers()} <= {"ready", "idle"}
        )

        def other_is_idle() -> bool:
            speak(client).raise_for_status()
            return worker_of(service, "OtherEngine")["state"] == "idle"

        service.wait_until(other_is_idle)
        pid = worker_of(service, "ScriptedEngine")["pid"]
        assert client.get("/ready").json()["models"] == {"scripted": "ready", "other": "ready"}
        assert speak(client, model="other").content == expected_pcm("audio3", 7, OTHER_VOICE)
        assert worker_of(service, "OtherEngine")["restarts"] == 0
        assert worker_of(service, "ScriptedEngine")["pid"] in (pid, None)


@pytest.mark.heavy
def test_models_that_do_not_end_by_themselves_are_stopped_at_once(tmp_path: Path) -> None:
    """Each is given two seconds, all of them together."""
    names = (SCRIPTED, OTHER, "tests.support.engines:BrittleEngine")
    with (
        running_service(tmp_path, MODEL=",".join(names)) as service,
        ThreadPoolExecutor(len(names)) as threads,
    ):
        service.wait_until(service.all_ready)

        def block(model: str) -> None:
            with service.client() as client, suppress(httpx.TransportError):
                speak(client, "block", model=model)

        held = [threads.submit(block, model) for model in names]
        service.wait_until(lambda: service.busy() == len(names))
        began = monotonic()
        service.process.send_signal(signal.SIGTERM)
        sleep(0.2)
        assert service.stop(signal.SIGTERM) == 0
        assert 2 < monotonic() - began < 5
        assert all(each.result() is None for each in held)
