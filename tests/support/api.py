"""Requests that tests of the API send by an `httpx.Client`, and checks of the responses."""

from pathlib import Path
from typing import Any

import httpx
import numpy as np

from tests.support.engines import expected_pcm, voice_code
from tests.support.media import audio_file, tone

SPEECH = "/tts/generate"
RATE = 16_000
BOUNDARY = b"its-boundary"


def post(client: httpx.Client, body: bytes, **headers: str) -> httpx.Response:
    """Send a body as it is."""
    return client.post(SPEECH, content=body, headers={"Content-Type": "application/json"} | headers)


def both(client: httpx.Client, **values: Any) -> list[httpx.Response]:
    return [client.get(SPEECH, params=values), client.post(SPEECH, json=values)]


def refusal(answer: httpx.Response, status: int = 400) -> dict[str, Any]:
    """Return the error of a response, which has the one shape."""
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    error = answer.json()["error"]
    assert list(error) == ["message", "type", "code", "param"]
    assert error["message"]
    return error


def error_code(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    return answer.json()["error"]["code"]


def wav(seconds: float = 1.0, hz: float = 220) -> bytes:
    return audio_file(tone(seconds, RATE, hz=hz), rate=RATE)


def code(seconds: float) -> int:
    """Return the scripted engine's code of the voice `wav(seconds)`."""
    return voice_code(tone(seconds, RATE))


def upload(client: httpx.Client, name: str, content: bytes, **query: Any) -> httpx.Response:
    return client.post("/voices", files={"file": (name, content)}, params=query)


def part(content: bytes, disposition: bytes = b'name="file"; filename="v.wav"') -> bytes:
    return b"--%b\r\nContent-Disposition: form-data; %b\r\n\r\n%b\r\n" % (
        BOUNDARY,
        disposition,
        content,
    )


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--%b--\r\n" % BOUNDARY


def upload_raw(client: httpx.Client, body: Any, charset: str = "") -> httpx.Response:
    """Send a form as it is."""
    media_type = f"multipart/form-data; boundary={BOUNDARY.decode()}{charset}"
    return client.post("/voices", content=body, headers={"Content-Type": media_type})


def heard(client: httpx.Client, voice_id: str) -> int | None:
    """Return the code of the voice in the audio; None if there is no such voice."""
    asked = {"text": "audio1", "seed": 7, "format": "raw_pcm", "voice_id": voice_id}
    answer = client.post("/tts/generate", json=asked)
    if answer.status_code == 404:
        assert error_code(answer, 404) == "voice_not_found"
        return None
    assert answer.status_code == 200
    voice = int(np.frombuffer(answer.content, "<i2")[1]) - 10_000
    assert answer.content == expected_pcm("audio1", 7, voice)
    return voice


def all_files(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of everything in and beside a service's folder, except its log."""
    return {
        str(path): (path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in folder.parent.rglob("*")
        if path.name != "service.log" and (path.is_symlink() or path.is_file())
    }
