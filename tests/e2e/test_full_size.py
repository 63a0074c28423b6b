"""The service with models of full size and random weights on a CPU; takes half an hour.

pytest -m heavy -s tests/e2e/test_full_size.py

Prints a table of memory and speed, and makes up to 3 GB of weights for each model, once.
"""

import os
import re
import signal
import wave
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

import httpx
import pytest

from app.audio.formats import ENCODERS
from app.bench.checkpoint import full_checkpoint
from app.core.audio import SAMPLE_RATE
from app.engines.chatterbox.variants import VARIANTS
from tests.support.recogniser import decode_audio
from tests.support.service import ROOT, Service, running_service

START_S = 900.0
RECORDING = ROOT / "preloaded-voices" / "austen.wav"
SHORT = "Sound."  # for which the engine allows 70 tokens
LONG = "Never mind the weather, said the captain, and went below."
SHORT_S = 2.8
SILENCE_S = {"turbo": 0.12, "nano": 0.12}  # that these models append
END_TRIM_S = {"multilingual": 0.04}
MOST_MEMORY_GB = {
    ("nano", "int8"): 2.5,
    ("nano", "float32"): 3.0,
    ("turbo", "int8"): 3.0,
    ("turbo", "float32"): 4.0,
    ("chatterbox", "int8"): 2.5,
    ("chatterbox", "float32"): 4.5,
    ("multilingual", "int8"): 2.5,
}

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(3600)]


class Spoken(NamedTuple):
    """An answer: its body, and when its first and its last byte came, in seconds."""

    body: bytes
    first_s: float
    all_s: float


class FullSize(NamedTuple):
    service: Service
    client: httpx.Client


def speak(client: httpx.Client, path: str = "/tts/generate", **request: Any) -> Spoken:
    began, body, first_s = monotonic(), b"", 0.0
    with client.stream("POST", path, **request) as answer:
        for piece in answer.iter_raw():
            first_s = first_s or monotonic() - began
            body += piece
        assert answer.status_code == 200, body
    return Spoken(body, first_s, monotonic() - began)


def ask(client: httpx.Client, **request: Any) -> Spoken:
    return speak(client, json={"format": "raw_pcm", "seed": 1, **request})


def add_voice(client: httpx.Client) -> None:
    client.post("/voices", files={"file": ("a.wav", RECORDING.read_bytes())}).raise_for_status()


def link_files(source: Path, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for path in source.glob("[!.]*"):
        (folder / path.name).symlink_to(path)


def any_starting(service: Service) -> bool:
    return any(worker["state"] == "starting" for worker in service.workers())


@contextmanager
def full_size_service(tmp_path: Path, *models: str, **env: Any) -> Iterator[FullSize]:
    for model in models:
        link_files(full_checkpoint(model), tmp_path / model)
    (tmp_path / "service").mkdir()
    env |= {"MODEL": ",".join(models), "MODEL_PATH": tmp_path}
    with (
        running_service(tmp_path / "service", start_s=START_S, **env) as service,
        service.client(timeout=1800) as client,
    ):
        service.wait_until(lambda: not any_starting(service), START_S)
        yield FullSize(service, client)


@pytest.mark.parametrize(("model", "dtype"), MOST_MEMORY_GB)
def test_each_model_streams_in_every_format(tmp_path: Path, model: str, dtype: str) -> None:
    with full_size_service(tmp_path, model, TTS_T3_DTYPE=dtype) as (service, client):
        assert client.get("/v1/models").json()["data"][0]["id"] == VARIANTS[model].id
        cold = ask(client, text=SHORT)
        expected_s = SHORT_S + SILENCE_S.get(model, 0) - END_TRIM_S.get(model, 0)
        for name in ENCODERS:
            spoken = ask(client, text=SHORT, format=name)
            spoken_s = len(decode_audio(spoken.body, name)) / SAMPLE_RATE
            assert spoken_s == pytest.approx(expected_s, abs=0.1), name
            assert spoken.first_s < 0.8 * spoken.all_s, name
        assert ask(client, text=SHORT).body == cold.body

        add_voice(client)
        ask(client, text=SHORT, voice_id="a.wav")
        spoken = ask(client, text=LONG, voice_id="a.wav")
        audio_s = len(spoken.body) / 2 / SAMPLE_RATE
        memory_gb = most_memory_gb(service.worker_pids()[0])
        print(
            f"\n| {model} | {dtype} | {memory_gb:.2f} GB "
            f"| first audio after {spoken.first_s:.1f} s, at first {cold.first_s:.1f} s "
            f"| {audio_s:.1f} s of audio in {spoken.all_s:.1f} s: {spoken.all_s / audio_s:.2f} |"
        )
        assert memory_gb < MOST_MEMORY_GB[model, dtype]


def test_two_models_speak_at_once_and_fail_alone(tmp_path: Path) -> None:
    models = ("turbo", "nano")
    with full_size_service(tmp_path, *models, TTS_T3_DTYPE="int8") as (service, client):
        alone = {name: ask(client, text=SHORT, model=name) for name in models}
        with ThreadPoolExecutor() as threads:
            answers = threads.map(lambda name: ask(client, text=SHORT, model=name), models)
            both = dict(zip(models, answers, strict=True))
        pids = {worker["id"].partition(".")[0]: worker["pid"] for worker in service.workers()}
        print()
        for name in models:
            memory_gb = most_memory_gb(pids[name])
            print(
                f"{name} beside the other: {memory_gb:.2f} GB, {both[name].all_s:.1f} s "
                f"instead of {alone[name].all_s:.1f} s"
            )
            assert both[name].body == alone[name].body, "the other model changed the audio"

        os.kill(pids["turbo"], signal.SIGKILL)
        assert ask(client, text=SHORT, model="nano").body == alone["nano"].body
        service.wait_until(lambda: len(service.worker_pids()) == 2)
        service.wait_until(lambda: not any_starting(service), START_S)
        assert ask(client, text=SHORT, model="turbo").body == alone["turbo"].body
        assert pids["nano"] in service.worker_pids()


def test_idle_model_leaves_and_returns(tmp_path: Path) -> None:
    env = {"TTS_T3_DTYPE": "int8", "MODEL_IDLE_SECONDS": 20}
    with full_size_service(tmp_path, "nano", **env) as (service, client):
        before = ask(client, text=SHORT)
        service.wait_until(lambda: not service.worker_pids(), 60)
        after = ask(client, text=SHORT)
        print(f"\nidle model: {before.all_s:.1f} s, with loading {after.all_s:.1f} s")
        assert after.body == before.body


@pytest.mark.parametrize("s3gen", ["meanflow", "own"])
def test_a_minute_of_speech_is_converted_as_a_stream(tmp_path: Path, s3gen: str) -> None:
    minute = repeat_to(60, RECORDING)
    if s3gen == "meanflow":
        name = VARIANTS["turbo"].manifest.s3gen
        (tmp_path / "chatterbox").mkdir()
        (tmp_path / "chatterbox" / name).symlink_to(full_checkpoint("turbo") / name)
    with full_size_service(tmp_path, "chatterbox", TTS_S3GEN=s3gen) as (_, client):
        add_voice(client)
        spoken = speak(
            client,
            "/tts/convert",
            files={"file": ("minute.wav", minute)},
            data={"voice_id": "a.wav", "format": "raw_pcm"},
        )
    times = f"first audio after {spoken.first_s:.1f} s of {spoken.all_s:.1f} s"
    print(f"\n60 s with S3Gen {s3gen}: {times}")
    assert len(spoken.body) / 2 / SAMPLE_RATE == pytest.approx(60, abs=0.1)
    assert spoken.first_s < spoken.all_s / 10


def repeat_to(seconds: int, path: Path) -> bytes:
    """Return the recording, over and over for that time, as WAV."""
    with wave.open(str(path)) as source:
        parameters, frames = source.getparams(), source.readframes(source.getnframes())
    size = seconds * parameters.framerate * parameters.sampwidth
    buffer = BytesIO()
    with wave.open(buffer, "wb") as target:
        target.setparams(parameters)
        target.writeframes((frames * (size // len(frames) + 1))[:size])
    return buffer.getvalue()


def most_memory_gb(pid: int) -> float:
    """Return the peak memory of a process so far, mapped files included."""
    status = Path(f"/proc/{pid}/status").read_text()
    match = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert match
    return int(match[1]) * 1024 / 1e9
