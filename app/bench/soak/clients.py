"""The clients of a soak: each makes one request, in a good way or a bad one, and judges the answer.

`KINDS` has them with their shares. A client returns the outcome in a word (see `verdict`) or
raises `Violation`. What it asks for follows from its own random numbers, so that a seed names one
mix; the moments are the machine's.
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
from app.bench.service import Violation
from app.bench.soak.nonsense import NO_HTTP, NOT_ALL, TOO_MUCH, WRONG, Refused
from app.bench.soak.speech import OpenAISpeech, Speech
from app.bench.soak.verdict import Answer, judge_refusal, judge_speech, judge_success
from app.bench.soak.voices import VoiceHistory, voice_file
from app.core.errors import InvalidRequest, VoiceExists, VoiceNotFound

LONGEST_STAY_S = 0.6
REST_S = 0.02
"""Of a slow reader, after each piece."""


@dataclass
class Call:
    """One client's turn.

    `kills` are the times at which workers were killed, so far. `took_s`: how long the answer took,
    once it is there. `narrow` is a client that reads next to nothing ahead.
    """

    id: str
    random: Random
    http: httpx.AsyncClient
    narrow: httpx.AsyncClient
    voices: list[VoiceHistory]
    kills: list[float]
    began_at: float = field(default_factory=monotonic)
    took_s: float = 0.0

    def kills_so_far(self) -> int:
        """Since this call began."""
        return sum(moment >= self.began_at for moment in self.kills)


Client = Callable[[Call], Awaitable[str]]


@dataclass(frozen=True)
class Kind:
    """`share` of the turns, relative to the others'; `at_once`: how many come at such a turn."""

    client: Client
    share: float
    at_once: int = 1


# --- who comes to hear ----------------------------------------------------------------------------


async def hears_a_word(call: Call) -> str:
    """The one whose latency counts."""
    return await _hear(call, Speech.random(call.random, call.random.randint(5, 25)))


async def hears_a_tale(call: Call) -> str:
    """As a file or a stream: what a dead worker has said of a file can still be said anew."""
    letters, stream = call.random.randint(150, 300), call.random.random() < 0.3
    return await _hear(call, Speech.random(call.random, letters, slows=16, stream=stream))


async def takes_a_format(call: Call) -> str:
    speech = Speech.random(
        call.random,
        letters=call.random.randint(10, 60),
        slows=call.random.randint(0, 2),
        form=call.random.choice(sorted(ENCODERS)),
        stream=call.random.random() < 0.6,
    )
    return await _hear(call, speech)


async def comes_from_openai(call: Call) -> str:
    speech = OpenAISpeech.random(
        call.random,
        letters=call.random.randint(10, 60),
        slows=call.random.randint(0, 2),
        form=call.random.choice(sorted(OPENAI_ENCODERS)),
        stream=call.random.random() < 0.8,
        speed=call.random.choice((1, 1, 0.75, 1.5)),
    )
    answer = await _ask(call, "POST", "/v1/audio/speech", json=speech.asked())
    file = await asyncio.to_thread(speech.file)
    return judge_speech(answer, [file], kills=call.kills_so_far())


async def comes_in_a_crowd(call: Call) -> str:
    """So many at once that the queue is full."""
    stream = call.random.random() < 0.5
    return await _hear(call, Speech.random(call.random, 30, slows=4, stream=stream))


async def leaves_early(call: Call) -> str:
    """In the queue, before the first byte or amid the audio: whenever its moment comes."""
    speech = Speech.random(call.random, 60, slows=call.random.randint(4, 12))
    with suppress(TimeoutError):
        async with asyncio.timeout(call.random.uniform(0, LONGEST_STAY_S)):
            return await _hear(call, speech)
    return "left"


async def reads_slowly(call: Call) -> str:
    """So much that its worker has to wait for it."""
    speech = Speech.random(call.random, 200)
    answer = await _ask(
        call, "POST", "/tts/generate", http=call.narrow, rest_s=REST_S, json=speech.asked()
    )
    return judge_speech(answer, [speech.file()], kills=call.kills_so_far())


async def speaks_in_a_voice(call: Call) -> str:
    """In exactly one of the versions that there were meanwhile, if there was one."""
    history = call.random.choice(call.voices)
    speech = Speech.random(call.random, 20, slows=call.random.randint(0, 4))
    asked = speech.asked() | {"voice_id": history.id}
    answer = await _ask(call, "POST", "/tts/generate", json=asked)
    voices = history.between(call.began_at, monotonic())
    return judge_speech(
        answer,
        [speech.file(voice) for voice in voices if voice is not None],
        kills=call.kills_so_far(),
        voice_may_be_gone=None in voices,
    )


# --- who comes for something else -----------------------------------------------------------------


async def changes_a_voice(call: Call) -> str:
    """Uploads, replaces or deletes one, whether it is there or not."""
    history = call.random.choice(call.voices)
    wish = call.random.choice((_upload, _replace, _replace, _delete))
    content, voice = voice_file(call.random.getrandbits(32))
    async with history.turn:
        return await wish(call, history, content, voice)


async def _upload(call: Call, history: VoiceHistory, content: bytes, voice: int) -> str:
    form = {"file": (history.id, content)}
    if history.now is not None:
        return judge_refusal(await _ask(call, "POST", "/voices", files=form), VoiceExists)
    with history.becoming(voice):
        return judge_success(await _ask(call, "POST", "/voices", files=form), 201)


async def _replace(call: Call, history: VoiceHistory, content: bytes, voice: int) -> str:
    form = {"file": (history.id, content)}
    with history.becoming(voice):
        return judge_success(await _ask(call, "POST", "/voices?replace=true", files=form), 201)


async def _delete(call: Call, history: VoiceHistory, content: bytes, voice: int) -> str:
    path = f"/voices/{history.id}"
    if history.now is None:
        return judge_refusal(await _ask(call, "DELETE", path), VoiceNotFound)
    with history.becoming(None):
        return judge_success(await _ask(call, "DELETE", path), 200)


async def looks_around(call: Call) -> str:
    path = call.random.choice(
        ("/", "/system-status", "/voices", "/health", "/ready", "/metrics", "/v1/audio/voices")
    )
    return judge_success(await _ask(call, "GET", path), 200)


async def asks_wrongly(call: Call) -> str:
    return await _be_refused(call, call.random.choice(WRONG))


async def sends_too_much(call: Call) -> str:
    return await _be_refused(call, call.random.choice(TOO_MUCH))


async def speaks_no_http(call: Call) -> str:
    return judge_refusal(_parsed(await _send(call, call.random.choice(NO_HTTP))), InvalidRequest)


async def hangs_up(call: Call) -> str:
    """Amid its request, or before it."""
    await _send(call, call.random.choice(NOT_ALL), hang_up=True)
    return "left"


KINDS = (
    Kind(hears_a_word, 32),
    Kind(takes_a_format, 12),
    Kind(comes_from_openai, 7),
    Kind(leaves_early, 12),
    Kind(speaks_in_a_voice, 9),
    Kind(asks_wrongly, 7),
    Kind(changes_a_voice, 4),
    Kind(looks_around, 4),
    Kind(hears_a_tale, 6),
    Kind(speaks_no_http, 2),
    Kind(hangs_up, 2),
    Kind(sends_too_much, 1.5),
    Kind(reads_slowly, 1),
    Kind(comes_in_a_crowd, 0.5, at_once=30),
)


# --- asking ---------------------------------------------------------------------------------------


async def _hear(call: Call, speech: Speech) -> str:
    """By GET or POST, as chance will have it."""
    if call.random.random() < 0.3:
        answer = await _ask(call, "GET", "/tts/generate", params=speech.asked())
    else:
        answer = await _ask(call, "POST", "/tts/generate", json=speech.asked())
    file = await asyncio.to_thread(speech.file)
    return judge_speech(answer, [file], kills=call.kills_so_far())


async def _be_refused(call: Call, refused: Refused) -> str:
    answer = await _ask(call, refused.method, refused.path, **refused.options)
    return judge_refusal(answer, refused.error)


async def _ask(
    call: Call,
    method: str,
    path: str,
    *,
    http: httpx.AsyncClient | None = None,
    rest_s: float = 0.0,
    headers: dict[str, str] | None = None,
    **options: Any,
) -> Answer:
    """The answer, read to its end; `options` as `httpx` takes them."""
    received, complete = bytearray(), True
    named = {"X-Request-ID": call.id} | (headers or {})
    try:
        async with (http or call.http).stream(method, path, headers=named, **options) as response:
            try:
                async for piece in response.aiter_raw():
                    received += piece
                    await asyncio.sleep(rest_s)
            except (httpx.RemoteProtocolError, httpx.ReadError):
                complete = False
    except httpx.TransportError as fault:
        raise Violation(f"{method} {path} has no answer: {fault!r}") from None
    call.took_s = monotonic() - call.began_at
    if response.headers.get("x-request-id") != call.id:
        raise Violation(f"this is the answer to {response.headers.get('x-request-id')}")
    return Answer(response.status_code, response.headers, bytes(received), complete)


async def _send(call: Call, sent: bytes, *, hang_up: bool = False) -> bytes:
    """All that comes back on a connection of its own, until the service closes it."""
    service = call.http.base_url
    reader, writer = await asyncio.open_connection(service.host, service.port)
    try:
        writer.write(sent)
        await writer.drain()
        return b"" if hang_up else await reader.read()
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


def _parsed(answer: bytes) -> Answer:
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    if not first.startswith("HTTP/1.1 "):
        raise Violation(f"no answer, but {answer[:200]!r}")
    headers = {
        name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }
    complete = headers.get("content-length") == str(len(body))
    return Answer(int(first.split()[1]), headers, body, complete)
