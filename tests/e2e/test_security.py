"""The key and the texts are disclosed nowhere, after all kinds of faults.

`tests/contract/test_auth.py` has the ways to send the key.
"""

import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.media import audio_file, tone
from tests.support.service import API_KEY, Service, running_service

ROUTE = "/tts/generate"
SECRET = "zebrafinch"
"""A word of every text, which is spoken as one token of audio."""


class RecordingClient:
    """A client that records the headers and bodies of all responses."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        self.received: list[str] = []

    def ask(self, method: str, path: str, **request: object) -> int:
        """Return the status, or 0 for an aborted response."""
        try:
            with self._client.stream(method, path, **request) as answer:
                self.received += [f"{name}: {value}" for name, value in answer.headers.items()]
                for piece in answer.iter_raw():
                    self.received.append(piece.decode("latin-1"))
                return answer.status_code
        except httpx.RemoteProtocolError:
            return 0

    def speak(self, words: str) -> int:
        return self.ask("POST", ROUTE, json={"text": f"{SECRET} {words}", "format": "raw_pcm"})


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, RecordingClient]]:
    """A service after many faults, and the client that caused them."""
    folder = tmp_path_factory.mktemp("security")
    with (
        running_service(
            folder,
            WORKERS_PER_DEVICE=2,
            WORKER_STALL_SECONDS=2,
            LOG_LEVEL="DEBUG",
            api_key=API_KEY,  # names of settings are case-insensitive
        ) as service,
        service.client() as client,
    ):
        recorder = RecordingClient(client)
        cause_faults(service, recorder)
        yield service, recorder


def cause_faults(service: Service, recorder: RecordingClient) -> None:
    """Cause each fault and check its status, so that the search below is meaningful."""
    keyed = {"api_key": API_KEY}
    voice = audio_file(tone(1.1))
    assert recorder.speak("audio3") == 200
    assert recorder.speak("raise audio3") == 500
    assert recorder.speak("audio30 sleep0.2 raise") == 0
    assert recorder.speak("oom") == 503
    assert recorder.speak("broken1 audio3") == 200
    assert recorder.speak("block audio3") == 504
    assert recorder.speak("die audio3") == 500
    service.wait_until(lambda: service.ready_workers() == 2, 20)
    for pid in service.worker_pids():
        os.kill(pid, signal.SIGKILL)
    assert recorder.speak("audio3") == 200
    assert recorder.ask("GET", ROUTE, params={**keyed, "text": f"{SECRET} audio3"}) == 200
    assert recorder.ask("GET", ROUTE, params={**keyed, "text": f"{SECRET} a", "seed": "x"}) == 400
    assert recorder.ask("GET", ROUTE, params={**keyed, "text": SECRET, "voice_id": "x.wav"}) == 404
    assert recorder.ask("GET", "/nowhere", params=keyed) == 404
    assert recorder.ask("PUT", ROUTE, params=keyed) == 405
    as_json = {"Content-Type": "application/json"}
    assert recorder.ask("POST", ROUTE, content=f'{{"text": "{SECRET}', headers=as_json) == 400
    assert recorder.ask("POST", ROUTE, content=SECRET) == 415
    assert recorder.ask("POST", ROUTE, json={"text": SECRET * 5000}) == 413
    assert recorder.ask("POST", "/voices", files={"file": ("a.wav", SECRET.encode())}) == 422
    assert recorder.ask("POST", "/voices", files={"file": ("../a.wav", voice)}) == 400
    assert recorder.ask("POST", "/voices", files={"file": ("a.wav", voice)}) == 201
    assert recorder.ask("POST", "/voices", files={"file": ("a.wav", voice)}) == 409
    for path in ("/voices", "/system-status", "/health", "/ready", "/ping", "/openapi.json"):
        assert recorder.ask("GET", path, params=keyed) in (200, 204)
    with service.client() as client:  # a response may name what the client sent
        assert client.post(ROUTE, json={f"{API_KEY}x": 1}).status_code == 400


@pytest.mark.covers("key secrecy")
def test_key_is_in_no_response_and_no_log(tried: tuple[Service, RecordingClient]) -> None:
    service, recorder = tried
    assert len(recorder.received) > 100
    assert API_KEY not in "\n".join(recorder.received)
    assert "Traceback" in service.log()  # of what the engine raised: all was logged
    assert API_KEY not in service.log()


@pytest.mark.covers("text privacy")
def test_text_is_in_no_response_and_no_log(tried: tuple[Service, RecordingClient]) -> None:
    service, recorder = tried
    assert SECRET not in "\n".join(recorder.received)
    assert SECRET not in service.log()


@pytest.mark.covers("key secrecy")
def test_key_is_in_no_command_line_and_no_environment_of_children(
    tried: tuple[Service, RecordingClient],
) -> None:
    service, _ = tried
    children = service.children()
    assert {child.pid for child in children} >= set(service.worker_pids())
    assert API_KEY not in " ".join(service.master.cmdline())
    for child in children:
        for file in ("environ", "cmdline"):
            content = Path(f"/proc/{child.pid}/{file}").read_bytes()
            assert content
            assert API_KEY.encode() not in content


@pytest.mark.covers("upload privacy")
def test_uploaded_file_is_private_and_served_with_the_key_only(
    tried: tuple[Service, RecordingClient],
) -> None:
    service, _ = tried
    mode = stat.S_IMODE((service.voices_dir / "a.wav").stat().st_mode)
    assert oct(mode) == "0o600"
    with service.client() as client:
        for path in ("/a.wav", "/voices/../a.wav", "/static/a.wav", "/voices/..%2Fa.wav"):
            assert client.get(path).status_code in (404, 405)
        answer = client.get("/voices/a.wav")
        assert answer.status_code == 200
        assert answer.headers["Content-Disposition"] == "attachment"
        del client.headers["X-API-Key"]
        assert client.get("/voices/a.wav").status_code == 401


@pytest.mark.covers("log injection")
def test_line_break_in_a_request_is_escaped_in_the_log(
    tried: tuple[Service, RecordingClient],
) -> None:
    service, _ = tried
    logged_before = len(service.log())
    with service.client() as client:
        forged = "x%0d%0a2026-01-01 00:00:00,000 INFO    master: forged"
        client.get(f"/{forged}")
        client.get(f"{ROUTE}?text=audio1%0d%0amaster:%20forged&voice_id={forged}")
        client.delete(f"/voices/{forged}")
    lines = service.log()[logged_before:].splitlines()
    assert lines
    assert not [line for line in lines if "forged" in line and "\\r\\n" not in line]
    assert all(" master: " in line or " cpu." in line for line in lines)


# --- requests whose bodies are not read -----------------------------------------------------------


def status_of_unread(service: Service, path: str, key: str, length: int, body: bytes = b"") -> int:
    """Promise a body of `length`, ask for `100 Continue`, and send `body`."""
    with service.connect() as connection:
        connection.sendall(
            f"POST {path} HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {length}\r\n"
            "Expect: 100-continue\r\n\r\n".encode()
            + body
        )
        return int(connection.recv(1000).split()[1])


@pytest.mark.fault(44)
@pytest.mark.parametrize("path", [ROUTE, "/voices"])
def test_wrong_key_is_refused_before_the_body_is_read(
    tried: tuple[Service, RecordingClient], path: str
) -> None:
    service, _ = tried
    for body in (b"", b'{"text": "abc'):
        assert status_of_unread(service, path, "wrong", 10**10, body) == 401


def test_valid_key_gets_100_continue(tried: tuple[Service, RecordingClient]) -> None:
    service, _ = tried
    assert status_of_unread(service, ROUTE, API_KEY, 9) == 100
