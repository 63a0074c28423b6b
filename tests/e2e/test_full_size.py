"""The service with Chatterbox at full size with random weights on a CPU; takes minutes.

pytest -m heavy -s tests/e2e/test_full_size.py
"""

import re
from collections.abc import Callable
from pathlib import Path
from time import monotonic

import pytest

from app.audio.formats import ENCODERS
from app.bench.checkpoint import full_checkpoint
from app.core.audio import SAMPLE_RATE
from tests.support.recogniser import decode_audio
from tests.support.service import ROOT, Service

SECONDS = 2.8  # of "Sound.", for which the engine allows 70 tokens
SILENCE_S = {"turbo": 0.12, "nano": 0.12}  # that these models append
MOST_MEMORY_GB = {
    ("chatterbox", "float32"): 4.5,
    ("chatterbox", "int8"): 2.5,
    ("turbo", "int8"): 2.5,
    ("nano", "float32"): 3.0,
    ("nano", "int8"): 2.5,
}


@pytest.mark.heavy
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("model", "dtype"), MOST_MEMORY_GB)
def test_each_model_streams_in_every_format(
    start: Callable[..., Service], tmp_path: Path, model: str, dtype: str
) -> None:
    (tmp_path / model).symlink_to(full_checkpoint(model))
    service = start(MODEL=model, MODEL_PATH=tmp_path, TTS_T3_DTYPE=dtype)
    with service.client(timeout=600) as client:
        assert client.get("/v1/models").json()["data"][0]["id"].endswith(model)
        pcm = set()
        for name in ENCODERS:
            began, arrivals, body = monotonic(), [], b""
            request = {"text": "Sound.", "format": name, "seed": 1}
            with client.stream("POST", "/tts/generate", json=request) as answer:
                for piece in answer.iter_raw():
                    arrivals.append(monotonic() - began)
                    body += piece
            spoken_s = len(decode_audio(body, name)) / SAMPLE_RATE
            print(f"{name}: first bytes after {arrivals[0]:.1f} s, all after {arrivals[-1]:.1f} s")
            assert spoken_s == pytest.approx(SECONDS + SILENCE_S.get(model, 0), abs=0.1)
            assert arrivals[0] < 0.8 * arrivals[-1]
            if name == "raw_pcm":
                pcm.add(body)
                pcm.add(client.post("/tts/generate", json=request).content)
                assert len(pcm) == 1, "another time the same seed gave other bytes"
        [worker] = service.status()["workers"]
        print(f"memory of the worker: {most_memory_gb(worker['pid']):.2f} GB")

        recording = (ROOT / "preloaded-voices" / "austen.wav").read_bytes()
        client.post("/voices", files={"file": ("a.wav", recording)}).raise_for_status()
        client.post(
            "/tts/generate", json={"text": "Sound.", "voice_id": "a.wav"}
        ).raise_for_status()
        memory_gb = most_memory_gb(worker["pid"])
        print(f"after cloning a voice: {memory_gb:.2f} GB")
        assert memory_gb < MOST_MEMORY_GB[model, dtype]


def most_memory_gb(pid: int) -> float:
    """Return the peak memory of a process so far, mapped files included."""
    status = Path(f"/proc/{pid}/status").read_text()
    match = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert match
    return int(match[1]) * 1024 / 1e9
