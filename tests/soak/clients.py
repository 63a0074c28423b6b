"""The clients of a soak: each makes one request, valid or not, and checks its response.

`KINDS` lists them with their shares. A client returns an outcome (see `response_checks`) or raises
`Violation`. A seed determines the requests; the moments are the machine's.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from time import monotonic
from typing import Any

import httpx

from app.audio.formats import ENCODERS, OPENAI_ENCODERS
from app.core.errors import InvalidRequest, VoiceExists, VoiceNotFound
from tests.soak.invalid_requests import (
    INCOMPLETE_HTTP,
    INVALID_REQUESTS,
    MALFORMED_HTTP,
    OVERSIZED_REQUESTS,
    InvalidCase,
)
from tests.soak.response_checks import Violation, check_error, check_speech, check_success
from tests.soak.speech import OpenAISpeech, Speech
from tests.soak.voices import VoiceHistory, voice_file
from tests.support.http_client import Response, fetch, send
from tests.support.service import Service

MAX_STAY_S = 0.6
READ_PAUSE_S = 0.02
"""The pause of a slow reader after each piece."""


@dataclass
class Call:
    """One request of one client.

    `kills`: the times of all kills so far. `took_s`: the time to the end of the response.
    `slow_http` has a small receive buffer.
    """

    id: str
    random: Random
    service: Service
    http: httpx.AsyncClient
    slow_http: httpx.AsyncClient
    voices: list[VoiceHistory]
    kills: list[float]
    began_at: float = field(default_factory=monotonic)
    took_s: float = 0.0

    def kills_so_far(self) -> int:
        """Return the number of kills since this call began."""
        return sum(moment >= self.began_at for moment in self.kills)


Client = Callable[[Call], Awaitable[str]]


@dataclass(frozen=True)
class Kind:
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
    speech = Speech.random(
        call.random,
        letters=call.random.randint(10, 60),
        slows=call.random.randint(0, 2),
        form=call.random.choice(sorted(ENCODERS)),
        stream=call.random.random() < 0.6,
    )
    return await _speak(call, speech)


async def openai_client(call: Call) -> str:
    speech = OpenAISpeech.random(
        call.random,
        letters=call.random.randint(10, 60),
        slows=call.random.randint(0, 2),
        form=call.random.choice(sorted(OPENAI_ENCODERS)),
        stream=call.random.random() < 0.8,
        speed=call.random.choice((1, 1, 0.75, 1.5)),
    )
    response = await _request(call, "POST", "/v1/audio/speech", json=speech.as_dict())
    file = await asyncio.to_thread(speech.file)
    return check_speech(response, [file], kills=call.kills_so_far())


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


async def slow_client(call: Call) -> str:
    """Read so slowly that the worker has to pause."""
    speech = Speech.random(call.random, 200)
    response = await _request(
        call,
        "POST",
        "/tts/generate",
        http=call.slow_http,
        pause_s=READ_PAUSE_S,
        json=speech.as_dict(),
    )
    return check_speech(response, [speech.file()], kills=call.kills_so_far())


async def voice_client(call: Call) -> str:
    """Ask for a voice that may change; the audio is in exactly one of its versions meanwhile."""
    history = call.random.choice(call.voices)
    speech = Speech.random(call.random, 20, slows=call.random.randint(0, 4))
    params = speech.as_dict() | {"voice_id": history.id}
    response = await _request(call, "POST", "/tts/generate", json=params)
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
    edit = call.random.choice((_upload, _replace, _replace, _delete))
    content, voice = voice_file(call.random.getrandbits(32))
    async with history.lock:
        return await edit(call, history, content, voice)


async def _upload(call: Call, history: VoiceHistory, content: bytes, voice: int) -> str:
    form = {"file": (history.id, content)}
    if history.current is not None:
        return check_error(await _request(call, "POST", "/voices", files=form), VoiceExists)
    with history.changing_to(voice):
        return check_success(await _request(call, "POST", "/voices", files=form), 201)


async def _replace(call: Call, history: VoiceHistory, content: bytes, voice: int) -> str:
    form = {"file": (history.id, content)}
    with history.changing_to(voice):
        return check_success(await _request(call, "POST", "/voices?replace=true", files=form), 201)


async def _delete(call: Call, history: VoiceHistory, content: bytes, voice: int) -> str:
    path = f"/voices/{history.id}"
    if history.current is None:
        return check_error(await _request(call, "DELETE", path), VoiceNotFound)
    with history.changing_to(None):
        return check_success(await _request(call, "DELETE", path), 200)


async def page_client(call: Call) -> str:
    path = call.random.choice(
        ("/", "/system-status", "/voices", "/health", "/ready", "/metrics", "/v1/audio/voices")
    )
    return check_success(await _request(call, "GET", path), 200)


async def invalid_client(call: Call) -> str:
    return await _be_refused(call, call.random.choice(INVALID_REQUESTS))


async def oversized_client(call: Call) -> str:
    return await _be_refused(call, call.random.choice(OVERSIZED_REQUESTS))


async def malformed_http_client(call: Call) -> str:
    response = await fetch(call.service, call.random.choice(MALFORMED_HTTP))
    if not response.status:
        raise Violation("no response to malformed HTTP")
    return check_error(response, InvalidRequest)


async def aborting_client(call: Call) -> str:
    """Close the connection during a request, or before it."""
    await send(call.service, call.random.choice(INCOMPLETE_HTTP))
    return "left"


KINDS = (
    Kind(short_text_client, 32),
    Kind(format_client, 12),
    Kind(openai_client, 7),
    Kind(leaving_client, 12),
    Kind(voice_client, 9),
    Kind(invalid_client, 7),
    Kind(voice_editor, 4),
    Kind(page_client, 4),
    Kind(long_text_client, 6),
    Kind(malformed_http_client, 2),
    Kind(aborting_client, 2),
    Kind(oversized_client, 1.5),
    Kind(slow_client, 1),
    Kind(burst_client, 0.5, at_once=30),
)


# --- requests -------------------------------------------------------------------------------------


async def _speak(call: Call, speech: Speech) -> str:
    if call.random.random() < 0.3:
        response = await _request(call, "GET", "/tts/generate", params=speech.as_dict())
    else:
        response = await _request(call, "POST", "/tts/generate", json=speech.as_dict())
    file = await asyncio.to_thread(speech.file)
    return check_speech(response, [file], kills=call.kills_so_far())


async def _be_refused(call: Call, case: InvalidCase) -> str:
    response = await _request(call, case.method, case.path, **case.options)
    return check_error(response, case.error)


async def _request(
    call: Call,
    method: str,
    path: str,
    *,
    http: httpx.AsyncClient | None = None,
    pause_s: float = 0.0,
    headers: dict[str, str] | None = None,
    **options: Any,
) -> Response:
    """Read the response to its end; `options` are httpx's."""
    received, complete = bytearray(), True
    headers = {"X-Request-ID": call.id} | (headers or {})
    try:
        async with (http or call.http).stream(method, path, headers=headers, **options) as response:
            try:
                async for piece in response.aiter_raw():
                    received += piece
                    await asyncio.sleep(pause_s)
            except (httpx.RemoteProtocolError, httpx.ReadError):
                complete = False
    except httpx.TransportError as fault:
        raise Violation(f"{method} {path} has no answer: {fault!r}") from None
    call.took_s = monotonic() - call.began_at
    if response.headers.get("x-request-id") != call.id:
        raise Violation(f"this is the answer to {response.headers.get('x-request-id')}")
    return Response(response.status_code, response.headers, bytes(received), complete)
