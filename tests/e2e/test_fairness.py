"""A job far ahead of its listener gives its slot to others, and goes on in time."""

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from time import monotonic
from typing import Any

import pytest

from app.core.params import SynthesisParams
from tests.support.http_client import connections, fetch, parse_response, read_response, speech
from tests.support.service import ROOT, Service, running_service
from tests.support.signal_engine import SLOW_S, expected_pcm
from tests.support.waiting import until

BYTES_PER_S = 48_000
OPTIONS = {"text_processing_chunk_size": 20, "audio_tokens_per_slice": 5}
PARAMS = SynthesisParams(seed=7, **OPTIONS)
LONG_CHUNK = SynthesisParams(seed=7, text_processing_chunk_size=500)
CHUNK = "It is slow and slow. "  # 0.8 s of audio
CHUNK_S = 2 * SLOW_S
LISTENED = (CHUNK * 8).strip()
SHORT = "Hi there."
OCCUPANT = "slow" * 20  # 1 s in one text chunk, so nothing else can run
ONE_SLOT = {
    "MODEL": "tests.support.signal_engine:SignalEngine",
    "MAX_AHEAD_SECONDS": 3,
    "LOG_LEVEL": "DEBUG",
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One worker with one slot; a client with a second of audio can wait for more."""
    with running_service(
        tmp_path_factory.mktemp("fairness"), QUEUE_TIMEOUT_SECONDS=3, **ONE_SLOT
    ) as service:
        yield service


class Listener:
    """Plays raw PCM from the first byte on, and reads no more than `ahead_s` ahead.

    `silence_s`: of all gaps in which the audio that came was over.
    """

    def __init__(self, ahead_s: float = 0.3) -> None:
        self._ahead_s = ahead_s
        self.received = bytearray()
        self.first_audio_s = 0.0
        self.silence_s = 0.0
        self._began_at: float | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def listen(self, service: Service, asked: bytes) -> "Listener":
        connection = service.connect(receive_buffer=32_768)
        connection.setblocking(False)
        reader, self._writer = await asyncio.open_connection(sock=connection, limit=4096)
        asked_at = monotonic()
        self._writer.write(asked)
        while piece := await reader.read(4096):
            now = monotonic()
            if self._began_at is not None:
                gap_s = max(0.0, now - self._began_at - self.audio_s)
                self.silence_s += gap_s
                self._began_at += gap_s
            self.received += piece
            if self._began_at is None and self.audio_s:
                self._began_at = now
                self.first_audio_s = now - asked_at
            played_s = now - (self._began_at or now)
            await asyncio.sleep(self.audio_s - played_s - self._ahead_s)
        self.leave()
        return self

    def leave(self) -> None:
        assert self._writer
        self._writer.transport.abort()

    @property
    def audio_s(self) -> float:
        return len(self.received.partition(b"\r\n\r\n")[2]) / BYTES_PER_S

    def check(self, text: str, params: SynthesisParams = PARAMS, *, gapless: bool = True) -> None:
        """Assert that all of the text was heard."""
        answer = parse_response(bytes(self.received))
        assert answer.status == 200, answer
        assert answer.complete
        assert answer.body == expected_pcm(text, params)
        assert not (gapless and self.silence_s)


@asynccontextmanager
async def listening(
    service: Service, name: str = "", ahead_s: float = 60
) -> AsyncIterator[Listener]:
    """A listener with half a second of audio; on exit it has all of it."""
    listener = Listener(ahead_s)
    task = asyncio.create_task(listener.listen(service, speech(LISTENED, name, **OPTIONS)))
    try:
        await until(lambda: listener.audio_s > 0.5, poll_s=0.01)
        yield listener
        await task
    finally:
        task.cancel()


async def ask(service: Service, text: str = SHORT, name: str = "", **options: Any) -> Listener:
    return await Listener(60).listen(service, speech(text, name, **(OPTIONS | options)))


def metric(service: Service, name: str) -> float:
    with service.client() as client:
        metrics = client.get("/metrics").text
    [value] = re.findall(rf"^{name} (\S+)", metrics, re.MULTILINE)
    return float(value)


def preempted(service: Service) -> float:
    return metric(service, "tts_preempted_jobs")


def sent_jobs(service: Service) -> list[str]:
    """The names of the requests in the order in which their jobs were sent to workers."""
    return re.findall(r"job (\S+)#\d+ sent to worker", service.log())


@asynccontextmanager
async def occupied(service: Service) -> AsyncIterator["asyncio.Task[Listener]"]:
    """A listener's job was preempted for one that gives its slot to nobody."""
    whole = {"text_processing_chunk_size": 500, "stream": "false"}
    occupant = asyncio.create_task(ask(service, OCCUPANT, **whole))
    try:
        await service.until(lambda: preempted(service) == 1)
        assert (service.queue("running"), service.queue("waiting")) == (1, 0)
        yield occupant
    finally:
        occupant.cancel()


# --- who waits for whom ---------------------------------------------------------------------------


@pytest.mark.fault(110)
@pytest.mark.timed
async def test_slow_listeners_and_short_requests_share_a_slot(service: Service) -> None:
    idle_s = min([(await ask(service)).first_audio_s for _ in range(3)])
    taken_s = []
    async with listening(service, ahead_s=0.3) as one, listening(service, ahead_s=0.3) as other:
        while one.audio_s < 5:
            short = await ask(service)
            short.check(SHORT)
            taken_s.append(short.first_audio_s)
            await asyncio.sleep(0.7)
    print(f"alone {idle_s:.3f} s, beside two listeners {max(taken_s):.3f} s")
    for each in (one, other):
        each.check(LISTENED)
    assert max(taken_s) < 1.5 * idle_s + CHUNK_S + 0.1


@pytest.mark.fault(110)
@pytest.mark.timed
@pytest.mark.parametrize(
    ("route", "options"),
    [
        ("/tts/generate", {"text": CHUNK * 40, "format": "wav"}),
        ("/tts/generate", {"text": CHUNK * 40, "format": "mp3"}),
        ("/v1/audio/speech", {"input": CHUNK * 40, "response_format": "pcm", "speed": 2}),
    ],
    ids=["wav", "mp3", "twice as fast"],
)
async def test_client_that_takes_all_it_can_get_lets_others_through(
    service: Service, route: str, options: dict[str, Any]
) -> None:
    async with service.async_client() as client:
        taking = asyncio.create_task(client.post(route, json=OPTIONS | options))  # 4 s
        await service.until(lambda: service.queue("running") == 1)
        await asyncio.sleep(4 * CHUNK_S)
        short = await ask(service)
        assert not taking.done()
        taking.cancel()
    short.check(SHORT)
    assert short.first_audio_s < 3 * CHUNK_S + 0.1
    await service.until(service.is_idle)


@pytest.mark.fault(111)
async def test_requests_run_in_order_and_those_of_clients_that_left_never(
    service: Service,
) -> None:
    names = [f"in-turn-{number}" for number in range(36)]
    left = names[14:34]
    async with AsyncExitStack() as staying:
        async with AsyncExitStack() as leaving:
            readers = {}
            for name in names[:-1]:
                stack = leaving if name in left else staying
                asked = [speech(CHUNK, name, **OPTIONS)]
                [readers[name]] = await stack.enter_async_context(connections(service, asked))
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.8)
        last = await ask(service, CHUNK, names[-1])
        answers = [await read_response(readers[name]) for name in names[:-1] if name not in left]
    last.check(CHUNK.strip())
    assert [answer.body for answer in answers] == [expected_pcm(CHUNK.strip(), PARAMS)] * 15
    order = [name for name in sent_jobs(service) if name in names]
    assert order == [name for name in names if name not in left]


# --- what happens meanwhile -----------------------------------------------------------------------


@pytest.mark.fault(112)
async def test_worker_dies_while_a_job_is_preempted(service: Service) -> None:
    async with listening(service, name="survivor") as listener, occupied(service) as occupant:
        [pid] = service.worker_pids()
        os.kill(pid, signal.SIGKILL)
        await occupant
    listener.check(LISTENED, gapless=False)
    assert sent_jobs(service).count("survivor") > 1


@pytest.mark.fault(113)
async def test_client_that_leaves_while_its_job_is_preempted(service: Service) -> None:
    async with listening(service, name="leaver") as listener, occupied(service) as occupant:
        listener.leave()
        await service.until(lambda: preempted(service) == 0)
        assert service.queue("running") == 1
        (await occupant).check(OCCUPANT, LONG_CHUNK)
    await service.until(service.is_idle)
    assert sent_jobs(service).count("leaver") == 1
    assert "job leaver#" in service.log()


@pytest.mark.fault(114)
async def test_sigterm_while_a_job_is_preempted(start: Callable[..., Service]) -> None:
    service = start(**ONE_SLOT)
    async with listening(service) as listener, occupied(service) as occupant:
        service.process.send_signal(signal.SIGTERM)
        (await occupant).check(OCCUPANT, LONG_CHUNK)
    listener.check(LISTENED, gapless=False)
    assert await asyncio.to_thread(service.process.wait, 5) == 0
    assert "Traceback" not in service.log()


# --- at the defaults ------------------------------------------------------------------------------


@pytest.mark.heavy
@pytest.mark.timeout(600)
@pytest.mark.fault(110)
async def test_short_requests_beside_a_listener_of_5000_characters(
    start: Callable[..., Service],
) -> None:
    """The preview voice: five minutes of speech, and a short request every ten seconds."""
    service = start(
        MODEL="preview",
        PRELOADED_VOICES_DIR=ROOT / "preloaded-voices",
        LOG_LEVEL="DEBUG",
    )
    sentence = "The night was dark, and the rain fell on the roofs of the old town. "
    text = (sentence * 80)[:5000]
    undisturbed = await fetch(service, speech(text))
    idle_s: list[float] = []
    chunk_s: list[float] = []

    async def measure() -> None:
        began = monotonic()
        await fetch(service, speech(sentence * 2))
        chunk_s.append(monotonic() - began)
        short = await Listener().listen(service, speech("Hi."))
        idle_s.append(short.first_audio_s)

    await measure()
    await measure()
    taken_s: list[float] = []
    listener = Listener(ahead_s=1)
    task = asyncio.create_task(listener.listen(service, speech(text)))
    await asyncio.sleep(3)
    while not task.done():
        short = await Listener().listen(service, speech("Hi."))
        assert short.audio_s > 0.1
        taken_s.append(short.first_audio_s)
        await asyncio.sleep(10)
    await measure()
    await measure()
    silence_s = metric(service, "tts_underrun_seconds_total")
    print(f"alone {idle_s}, a chunk {chunk_s}, beside a listener {taken_s}")
    print(f"silence {listener.silence_s:.3f} s heard, {silence_s:.3f} s reckoned")
    assert len(taken_s) > 20
    assert parse_response(bytes(listener.received)).body == undisturbed.body
    assert silence_s == 0
    assert listener.silence_s < 0.1  # this process may be late
    assert max(taken_s) < 1.5 * max(idle_s) + max(chunk_s)
