"""The clients of a soak: each makes one request, valid or not, and checks its response.

`KINDS` lists them with their shares. A client returns an outcome (see `checks`) or raises
`Violation`. A seed determines the requests; the moments are the machine's.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from time import monotonic
from typing import Any, NamedTuple

import httpx

from app.audio.formats import ENCODERS
from tests.soak.checks import Violation, check_error, check_speech, check_success
from tests.soak.speech import Speech
from tests.soak.voices import VoiceHistory, voice_file
from tests.support.http_client import Response, send
from tests.support.service import Service

MAX_TEXT_LENGTH = 20_000
MAX_UPLOAD_MB = 1
"""The limits of the soak's service."""

MAX_STAY_S = 0.6


@dataclass
class Call:
    """One request of one client.

    `kills`: the times of all kills so far. `took_s`: the time to the end of the response.
    """

    id: str
    random: Random
    service: Service
    http: httpx.AsyncClient
    voices: list[VoiceHistory]
    kills: list[float]
    began_at: float = field(default_factory=monotonic)
    took_s: float = 0.0

    def kills_so_far(self) -> int:
        """Return the number of kills since this call began."""
        return sum(moment >= self.began_at for moment in self.kills)


Client = Callable[[Call], Awaitable[str]]


class Kind(NamedTuple):
    """`share` of the turns, relative to the others'; `at_once`: clients that start in one turn."""

    client: Client
    share: float
    at_once: int = 1


# --- speech ---------------------------------------------------------------------------------------


async def short_text_client(call: Call) -> str:
    """Ask for a few words; its latency is reported."""
    return await _speak(call, Speech.random(call.random, call.random.randint(5, 25)))


async def long_text_client(call: Call) -> str:
    """Ask for a file or a stream; a file can be retried when its worker dies."""
    letters, stream = call.random.randint(150, 300), call.random.random() < 0.3
    return await _speak(call, Speech.random(call.random, letters, slows=16, stream=stream))


async def format_client(call: Call) -> str:
    openai = call.random.random() < 0.4
    speech = Speech.random(
        call.random,
        letters=call.random.randint(10, 60),
        slows=call.random.randint(0, 2),
        form=call.random.choice(sorted(ENCODERS)),
        stream=call.random.random() < 0.6,
        openai=openai,
    )
    return await _speak(call, speech)


async def burst_client(call: Call) -> str:
    """Come with so many others that the queue is full."""
    stream = call.random.random() < 0.5
    return await _speak(call, Speech.random(call.random, 30, slows=4, stream=stream))


async def leaving_client(call: Call) -> str:
    """Leave in the queue, before the first byte or during the audio."""
    speech = Speech.random(call.random, 60, slows=call.random.randint(4, 12))
    with suppress(TimeoutError):
        async with asyncio.timeout(call.random.uniform(0, MAX_STAY_S)):
            return await _speak(call, speech)
    return "left"


async def voice_client(call: Call) -> str:
    """Ask for a voice that may change; the audio is in exactly one of its versions meanwhile."""
    history = call.random.choice(call.voices)
    speech = Speech.random(call.random, 20, slows=call.random.randint(0, 4))
    params = speech.as_dict() | {"voice_id": history.id}
    response = await _request(call, "POST", SPEECH, json=params)
    voices = history.between(call.began_at, monotonic())
    return check_speech(
        response,
        [speech.file(voice) for voice in voices if voice is not None],
        kills=call.kills_so_far(),
        voice_may_be_gone=None in voices,
    )


# --- other requests -------------------------------------------------------------------------------


async def voice_editor(call: Call) -> str:
    """Upload, replace or delete a voice, whether it exists or not."""
    history = call.random.choice(call.voices)
    method, query = call.random.choice(
        (("POST", ""), ("POST", "?replace=true"), ("POST", "?replace=true"), ("DELETE", ""))
    )
    content, voice = voice_file(call.random.getrandbits(32))
    async with history.lock:
        if method == "DELETE":
            deleting = _request(call, "DELETE", f"/voices/{history.id}")
            if history.current is None:
                return _refused(await deleting, "voice_not_found")
            with history.changing_to(None):
                return check_success(await deleting, 200)
        files = {"file": (history.id, content)}
        uploading = _request(call, "POST", f"/voices{query}", files=files)
        if history.current is not None and not query:
            return _refused(await uploading, "voice_exists")
        with history.changing_to(voice):
            return check_success(await uploading, 201)


async def page_client(call: Call) -> str:
    return check_success(await _request(call, "GET", call.random.choice(PAGES)), 200)


async def invalid_client(call: Call) -> str:
    code, method, path, options = call.random.choice(INVALID_REQUESTS)
    return _refused(await _request(call, method, path, **options), code)


async def aborting_client(call: Call) -> str:
    """Close the connection during a request, or before it."""
    await send(call.service, call.random.choice(INCOMPLETE_HTTP))
    return "left"


# --- the mix --------------------------------------------------------------------------------------

SPEECH = "/tts/generate"
PAGES = ("/", "/system-status", "/voices", "/health", "/ready", "/metrics", "/v1/audio/voices")
TOO_LARGE = bytes(MAX_UPLOAD_MB * 1_200_000)
JSON = {"Content-Type": "application/json"}
INVALID_REQUESTS: list[tuple[str, str, str, dict[str, Any]]] = [
    ("invalid_api_key", "GET", "/voices", {"headers": {"X-API-Key": "wrong"}}),
    ("voice_not_found", "GET", SPEECH, {"params": {"text": "a", "voice_id": "never.wav"}}),
    ("invalid_request", "POST", SPEECH, {"content": b"[" * 9_000, "headers": JSON}),
    ("empty_text", "POST", SPEECH, {"json": {"text": " … "}}),
    ("unusable_audio", "POST", "/voices", {"files": {"file": ("text.wav", b"no sound")}}),
    ("text_too_long", "POST", SPEECH, {"json": {"text": "a" * (MAX_TEXT_LENGTH + 1)}}),
    ("payload_too_large", "POST", SPEECH, {"json": {"text": "a" * (20 * MAX_TEXT_LENGTH)}}),
    ("payload_too_large", "POST", "/voices", {"files": {"file": ("large.wav", TOO_LARGE)}}),
]
"""The code of the expected error, method, path, and httpx's options."""

INCOMPLETE_HTTP = (
    b"",
    b"GET /voices HTTP/1.1\r\nHost:",
    b"POST /tts/generate HTTP/1.1\r\nHost: a\r\nContent-Length: 9000\r\n\r\n{",
    b"POST /voices HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
)
"""Sent before the client closes the connection."""

KINDS = (
    Kind(short_text_client, 32),
    Kind(format_client, 19),
    Kind(leaving_client, 12),
    Kind(voice_client, 9),
    Kind(invalid_client, 7),
    Kind(voice_editor, 4),
    Kind(page_client, 4),
    Kind(long_text_client, 6),
    Kind(aborting_client, 2),
    Kind(burst_client, 0.5, at_once=30),
)


# --- requests -------------------------------------------------------------------------------------


async def _speak(call: Call, speech: Speech) -> str:
    if speech.openai:
        answer = await _request(call, "POST", "/v1/audio/speech", json=speech.as_dict())
    elif call.random.random() < 0.3:
        answer = await _request(call, "GET", SPEECH, params=speech.as_dict())
    else:
        answer = await _request(call, "POST", SPEECH, json=speech.as_dict())
    file = await asyncio.to_thread(speech.file)
    return check_speech(answer, [file], kills=call.kills_so_far())


def _refused(response: Response, code: str) -> str:
    check_error(response, code)
    return "refused"


async def _request(
    call: Call,
    method: str,
    path: str,
    *,
    headers: dict[str, str] | None = None,
    **options: Any,
) -> Response:
    """Read the response to its end; `options` are httpx's."""
    received, complete = bytearray(), True
    headers = {"X-Request-ID": call.id} | (headers or {})
    try:
        async with call.http.stream(method, path, headers=headers, **options) as response:
            try:
                async for piece in response.aiter_raw():
                    received += piece
            except (httpx.RemoteProtocolError, httpx.ReadError):
                complete = False
    except httpx.TransportError as fault:
        raise Violation(f"{method} {path} has no answer: {fault!r}") from None
    call.took_s = monotonic() - call.began_at
    if response.headers.get("x-request-id") != call.id:
        raise Violation(f"this is the answer to {response.headers.get('x-request-id')}")
    return Response(response.status_code, response.headers, bytes(received), complete)
