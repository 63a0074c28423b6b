"""Responses of real streams, encoders and threads to a scripted client and worker."""

import asyncio
import gc
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial

import pytest
from starlette.types import Message

import app.http.audio_response as response_module
from app.audio.encoder import Encoder, RawPcmEncoder
from app.audio.formats import ENCODERS
from app.backend.job_stream import JobStream
from app.core.audio import SAMPLE_RATE
from app.core.errors import EncoderFailed, EngineFailed, ServiceError
from app.http.audio_response import AudioResponse
from app.observability.metrics import Metrics
from app.speech.stream import SpeechStream
from tests.support.media import tone
from tests.support.waiting import until

FORMATS = list(ENCODERS)


def pcm(seconds: float, hz: int) -> bytes:
    return (tone(seconds, SAMPLE_RATE, hz=hz) * 20_000).astype("<i2").tobytes()


class Client:
    """Receives while `reading` is set; disconnects when `leaving` is set."""

    def __init__(self, stream: JobStream) -> None:
        self.sent: list[Message] = []
        self.reading = asyncio.Event()
        self.reading.set()
        self.leaving = asyncio.Event()
        self._stream = stream

    async def receive(self) -> Message:
        await self.leaving.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        assert self._stream.committed
        self.sent.append(message)
        await self.reading.wait()

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    @property
    def complete(self) -> bool:
        last = self.sent[-1]
        return last["type"] == "http.response.body" and not last.get("more_body")


class HeldEncoder(RawPcmEncoder):
    """Signals `entered`, then waits for `resume`."""

    cpu_bound = True

    def __init__(self, entered: threading.Event, resume: threading.Event) -> None:
        super().__init__(SAMPLE_RATE)
        self._entered = entered
        self._resume = resume

    def encode(self, pcm: bytes) -> bytes:
        self._entered.set()
        assert self._resume.wait(20)
        return pcm


class FailingEncoder(RawPcmEncoder):
    """Raises `fault` on audio `bad!`."""

    def __init__(self, fault: type[Exception]) -> None:
        super().__init__(SAMPLE_RATE)
        self._fault = fault

    def encode(self, pcm: bytes) -> bytes:
        try:
            assert pcm != b"bad!"
        except AssertionError as error:
            raise self._fault("it failed") from error
        return pcm


class Exchange:
    """A response that is being sent; `closings` are the errors that its stream was closed with."""

    def __init__(
        self,
        threads: ThreadPoolExecutor,
        new_encoder: Callable[[], Encoder],
        buffered: bool = False,
    ) -> None:
        self.stream = JobStream()
        self.client = Client(self.stream)
        self.closings: list[ServiceError | None] = []
        self.stream.on_close = self.closings.append
        self.state = {"request_id": "request"}
        self.metrics = Metrics()
        response = AudioResponse(
            SpeechStream(self.stream, new_encoder, threads, self.metrics), buffered=buffered
        )
        self.ending = asyncio.create_task(
            response({"state": self.state}, self.client.receive, self.client.send)  # type: ignore[func-returns-value]
        )

    async def feed(self, audio: bytes) -> None:
        """Put audio into the stream and wait until the response has read it."""
        self.stream.put(audio)
        await until(lambda: self.stream.consumed_samples == len(audio) // 2)


Respond = Callable[..., Exchange]


@pytest.fixture
def respond() -> Iterator[Respond]:
    """`respond(new_encoder, buffered=…)` starts to send a response."""
    with ThreadPoolExecutor(1) as threads:
        yield partial(Exchange, threads)


@pytest.fixture
def no_gc() -> Iterator[None]:
    """Disables the collector of cycles, so that only references keep objects alive."""
    gc.disable()
    yield
    gc.enable()


def tracked(
    make: Callable[[], Encoder],
) -> tuple[Callable[[], Encoder], list[weakref.ref[Encoder]]]:
    """Return a factory like `make`, and weak references to the encoders that it makes."""
    encoders: list[weakref.ref[Encoder]] = []

    def new_encoder() -> Encoder:
        encoder = make()
        encoders.append(weakref.ref(encoder))
        return encoder

    return new_encoder, encoders


def file_of(name: str, *pieces: bytes, buffered: bool = False) -> bytes:
    encoder = ENCODERS[name](SAMPLE_RATE)
    stream = b"".join([*map(encoder.encode, pieces), encoder.finish()])
    return encoder.finalize_file(stream) if buffered else stream


@pytest.mark.parametrize("name", FORMATS)
async def test_file_of_restarted_job_equals_that_of_an_uninterrupted_one(
    name: str, respond: Respond
) -> None:
    answer = respond(partial(ENCODERS[name], SAMPLE_RATE), buffered=True)
    await answer.feed(pcm(1, hz=300))
    answer.stream.restart()
    for _ in range(3):
        answer.stream.put(pcm(0.5, hz=500))
    answer.stream.end()
    await answer.ending
    assert answer.client.body == file_of(name, *[pcm(0.5, hz=500)] * 3, buffered=True)
    headers = dict(answer.client.sent[0]["headers"])
    assert int(headers[b"content-length"]) == len(answer.client.body)


async def test_complete_file_counts_as_unread_until_it_is_sent(respond: Respond) -> None:
    answer = respond(partial(ENCODERS["raw_pcm"], SAMPLE_RATE), buffered=True)
    answer.client.reading.clear()
    audio = pcm(4, hz=300)
    for start in range(0, len(audio), 48_000):
        answer.stream.put(audio[start : start + 48_000])
    answer.stream.end()
    await until(lambda: bool(answer.client.sent))
    assert answer.stream.unread_bytes == len(audio)
    answer.client.reading.set()
    await answer.ending
    assert answer.stream.unread_bytes == 0
    assert answer.client.body == audio


@pytest.mark.parametrize("name", ["mp3", "fmp4", "webm"])
async def test_restarts_while_encoder_has_returned_nothing(name: str, respond: Respond) -> None:
    answer = respond(partial(ENCODERS[name], SAMPLE_RATE))
    await answer.feed(pcm(0.01, hz=300))
    assert answer.client.sent == []
    answer.stream.restart()
    for _ in range(3):
        answer.stream.put(pcm(0.5, hz=500))
    answer.stream.end()
    await answer.ending
    assert answer.client.body == file_of(name, *[pcm(0.5, hz=500)] * 3)
    assert answer.client.complete


async def test_restarts_during_encoding_of_first_piece(
    respond: Respond,
) -> None:
    entered, resume = threading.Event(), threading.Event()
    answer = respond(partial(HeldEncoder, entered, resume))
    answer.stream.put(b"old!")
    await asyncio.to_thread(entered.wait, 20)
    answer.stream.restart()
    answer.stream.put(b"new!")
    answer.stream.end()
    resume.set()
    await answer.ending
    assert answer.client.body == b"new!"


@pytest.mark.parametrize(("name", "counted"), [("mp3", {"audio/mpeg"}), ("wav", set())])
async def test_counts_cpu_time_of_encoder_threads_by_media_type(
    name: str, counted: set[str], respond: Respond
) -> None:
    answer = respond(partial(ENCODERS[name], SAMPLE_RATE))
    answer.stream.put(pcm(20, hz=300))
    answer.stream.end()
    await answer.ending
    [family] = [each for each in answer.metrics.registry.collect() if "encoder" in each.name]
    assert {sample.labels["media_type"] for sample in family.samples} == counted
    assert all(0.001 < sample.value < 20 for sample in family.samples)


async def test_commits_and_starts_with_first_piece(respond: Respond) -> None:
    answer = respond(partial(RawPcmEncoder, SAMPLE_RATE))
    await asyncio.sleep(0)
    assert not answer.stream.committed
    await answer.feed(b"some")
    await until(lambda: answer.client.body == b"some")
    assert answer.stream.committed
    answer.stream.end()
    await answer.ending


async def test_failure_before_response_does_not_wait_for_encoder(
    respond: Respond, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(response_module, "ABORT_FLUSH_S", 0.01)
    entered, resume = threading.Event(), threading.Event()
    answer = respond(partial(HeldEncoder, entered, resume))
    answer.stream.put(b"some")
    await asyncio.to_thread(entered.wait, 20)
    answer.stream.end(EngineFailed("it failed"))
    try:
        with pytest.raises(EngineFailed):
            await asyncio.wait_for(answer.ending, 5)
    finally:
        resume.set()
    assert answer.client.sent == []


async def test_failure_during_response_leaves_it_incomplete(
    respond: Respond,
) -> None:
    answer = respond(partial(RawPcmEncoder, SAMPLE_RATE))
    await answer.feed(b"some")
    await until(lambda: answer.client.body == b"some")
    answer.stream.end(EngineFailed("it failed"))
    await answer.ending
    assert not answer.client.complete


@pytest.mark.parametrize(
    ("fault", "code"), [(EncoderFailed, "encoder_error"), (KeyError, "internal_error")]
)
async def test_encoder_error_during_response_fails_the_job(
    respond: Respond, caplog: pytest.LogCaptureFixture, fault: type[Exception], code: str
) -> None:
    answer = respond(partial(FailingEncoder, fault))
    await answer.feed(b"some")
    answer.stream.put(b"bad!")
    with pytest.raises(KeyError) if fault is KeyError else nullcontext():
        await answer.ending
    assert answer.client.body == b"some"
    assert not answer.client.complete
    [failure] = answer.closings
    assert failure
    assert failure.code == code
    if fault is EncoderFailed:
        assert answer.state["error_code"] == code
        assert caplog.messages == ["request: response aborted: it failed"]


async def test_encoder_error_before_response_fails_the_job(
    respond: Respond, caplog: pytest.LogCaptureFixture
) -> None:
    answer = respond(partial(FailingEncoder, EncoderFailed))
    answer.stream.put(b"bad!")
    with pytest.raises(EncoderFailed):
        await answer.ending
    assert answer.client.sent == []
    [failure] = answer.closings
    assert isinstance(failure, EncoderFailed)
    assert caplog.messages == []


async def test_disconnect_cancels_without_failure(
    respond: Respond, caplog: pytest.LogCaptureFixture
) -> None:
    answer = respond(partial(RawPcmEncoder, SAMPLE_RATE))
    await answer.feed(b"some")
    answer.client.leaving.set()
    await answer.ending
    assert answer.closings == [None]
    assert "error_code" not in answer.state
    assert caplog.messages == []


async def test_disconnect_closes_generators(
    respond: Respond,
) -> None:
    abandoned: list[object] = []
    sys.set_asyncgen_hooks(finalizer=abandoned.append)  # in place of the event loop's
    answer = respond(partial(RawPcmEncoder, SAMPLE_RATE))
    answer.client.reading.clear()
    await answer.feed(b"some")
    await until(lambda: len(answer.client.sent) > 0)
    answer.client.leaving.set()
    await answer.ending
    assert abandoned == []


@pytest.mark.usefixtures("no_gc")
async def test_failed_encoder_is_freed_at_once(respond: Respond) -> None:
    new_encoder, encoders = tracked(partial(FailingEncoder, EncoderFailed))
    answer = respond(new_encoder)
    answer.stream.on_close = answer.stream.end  # as the dispatcher does
    await answer.feed(b"some")
    answer.stream.put(b"bad!")
    await answer.ending
    await until(lambda: encoders[0]() is None)


@pytest.mark.usefixtures("no_gc")
@pytest.mark.parametrize("buffered", [False, True])
async def test_encoder_is_freed_at_once_if_the_error_is_handled(
    respond: Respond, buffered: bool
) -> None:
    new_encoder, encoders = tracked(partial(ENCODERS["mp3"], SAMPLE_RATE))

    async def fail() -> None:
        answer = respond(new_encoder, buffered=buffered)
        answer.stream.end(EngineFailed("it failed"))
        with pytest.raises(EngineFailed):
            await answer.ending

    await fail()
    await until(lambda: encoders[0]() is None)


@pytest.mark.usefixtures("no_gc")
@pytest.mark.parametrize("buffered", [False, True])
async def test_encoder_of_failed_job_is_freed_at_once(respond: Respond, buffered: bool) -> None:
    new_encoder, encoders = tracked(partial(ENCODERS["mp3"], SAMPLE_RATE))
    answer = respond(new_encoder, buffered=buffered)
    await answer.feed(pcm(1, hz=300))
    stream = answer.stream
    await until(lambda: buffered or stream.committed)
    stream.end(EngineFailed("it failed"))
    await asyncio.gather(answer.ending, return_exceptions=True)
    del answer
    await until(lambda: encoders[0]() is None)
