"""The three stages, run with an engine that can be held at any step."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any, ClassVar

import msgspec
import pytest

from app.core.audio import Samples
from app.core.engine_config import EngineConfig, QueueSizes
from app.core.errors import EmptyText, EngineFailed, UnsupportedLanguage
from app.core.params import SynthesisParams
from app.core.resume_point import ResumePoint
from app.engines.base import SpeechSlice, TextChunk
from app.pipeline.pipeline import Pipeline
from tests.ipc.test_messages import PARAMS
from tests.support.engines import (
    SAMPLES_PER_TOKEN,
    ScriptedDecoder,
    ScriptedEngine,
    expected_pcm,
)
from tests.support.waiting import PATIENCE_S, until

SIZES = QueueSizes(slices=2, audio=3)
PLAIN = msgspec.structs.replace(
    PARAMS, crossfade_duration_milliseconds=0, text_processing_chunk_size=30
)
TWO_CHUNKS = "audio2 one two three. audio3 four five six."


class Held:
    """A gate before each step, `passed` says how many got through."""

    def __init__(self) -> None:
        self._gate = asyncio.Semaphore(0)
        self.passed = 0

    def open(self, steps: int = 1_000_000) -> None:
        for _ in range(min(steps, 10_000)):
            self._gate.release()

    async def step(self) -> None:
        await self._gate.acquire()
        self.passed += 1


class HeldEngine(ScriptedEngine):
    """The scripted engine, stopped before each slice (`t3`) and each decoding (`s3gen`)."""

    def __init__(self) -> None:
        super().__init__(EngineConfig("cpu", 1, ""))
        self.t3, self.s3gen = Held(), Held()
        self.chunks: list[str] = []
        self.cancelled: set[str] = set()

    async def speech_tokens(
        self, chunk: TextChunk, voice: Any, params: SynthesisParams
    ) -> AsyncIterator[SpeechSlice]:
        self.chunks.append(chunk.text)
        async for piece in super().speech_tokens(chunk, voice, params):
            await self._cancellable("t3", self.t3.step)
            yield piece

    def new_decoder(
        self, voice: Any, params: SynthesisParams, first_chunk: int = 0
    ) -> ScriptedDecoder:
        engine = self

        class HeldDecoder(ScriptedDecoder):
            async def decode(self, piece: SpeechSlice) -> Samples:
                await engine._cancellable("s3gen", engine.s3gen.step)
                return await super().decode(piece)

        return HeldDecoder(voice, params.seed)

    async def _cancellable(self, stage: str, step: Callable[[], Any]) -> None:
        try:
            await step()
        except asyncio.CancelledError:
            self.cancelled.add(stage)
            raise


async def at_rest(*counters: Callable[[], int]) -> None:
    """Return when no counter has changed for 50 turns of the event loop."""
    quiet, before = 0, [count() for count in counters]
    while quiet < 50:
        await asyncio.sleep(0)
        now = [count() for count in counters]
        quiet, before = (quiet + 1 if now == before else 0), now


async def emitted(pipeline: Pipeline, text: str, params: SynthesisParams = PLAIN) -> list[bytes]:
    pieces: list[bytes] = []

    async def emit(pcm: bytes) -> None:
        pieces.append(pcm)

    await pipeline.run(text, 0, params, emit)
    return pieces


async def spoken(engine: ScriptedEngine, text: str, params: SynthesisParams = PLAIN) -> bytes:
    pipeline = Pipeline(engine, SIZES)
    pieces = await emitted(pipeline, text, params)
    pipeline.close()
    return b"".join(pieces)


@pytest.fixture
def scripted() -> ScriptedEngine:
    return ScriptedEngine(EngineConfig("cpu", 1, ""))


async def never(pcm: bytes) -> None:
    raise AssertionError("nothing is to be emitted")


async def discard(pcm: bytes) -> None:
    pass


# --- what comes out -------------------------------------------------------------------------------


async def test_the_audio_of_a_text_is_complete_in_order_and_slice_by_slice(
    scripted: ScriptedEngine,
) -> None:
    assert await spoken(scripted, TWO_CHUNKS) == expected_pcm(TWO_CHUNKS, PLAIN.seed)
    pieces = await emitted(Pipeline(scripted, SIZES), "audio3 audio5 one")
    assert [len(pcm) // 2 for pcm in pieces] == [n * SAMPLES_PER_TOKEN for n in (3, 5, 1)]


async def test_engine_normalises_the_text_before_it_is_split() -> None:
    class Shouting(ScriptedEngine):
        def normalize_text(self, text: str, language: str) -> str:
            return text.replace("…", " audio3 four.")

    normalised = TWO_CHUNKS + " audio3 four."
    engine = Shouting(EngineConfig("cpu", 1, ""))
    assert await spoken(engine, TWO_CHUNKS + "…") == expected_pcm(normalised, PLAIN.seed)


async def test_punctuation_is_plain_for_engines_that_do_not_normalise() -> None:
    engine = HeldEngine()
    engine.t3.open()
    engine.s3gen.open()
    await spoken(engine, "“audio2” – one…")
    assert engine.chunks == ['"audio2", one,']


async def test_chunks_are_trimmed_and_crossfaded(scripted: ScriptedEngine) -> None:
    trim = msgspec.structs.replace(
        PLAIN, remove_leading_milliseconds=40, remove_trailing_milliseconds=80
    )
    fade = msgspec.structs.replace(PLAIN, crossfade_duration_milliseconds=40)
    whole = expected_pcm(TWO_CHUNKS, PLAIN.seed)
    assert len(whole) - len(await spoken(scripted, TWO_CHUNKS, trim)) == 12 * SAMPLES_PER_TOKEN
    assert len(whole) - len(await spoken(scripted, TWO_CHUNKS, fade)) == 2 * SAMPLES_PER_TOKEN
    zero = msgspec.structs.replace(fade, chunk_overlap_method="zero")
    assert await spoken(scripted, TWO_CHUNKS, zero) == whole


async def test_slices_without_audio_emit_nothing(scripted: ScriptedEngine) -> None:
    text = "audio0 sleep0 audio2 sleep0"
    assert await spoken(scripted, text) == expected_pcm("audio2", PLAIN.seed)
    assert await spoken(scripted, "audio0 sleep0") == b""


async def test_chunks_are_counted_as_they_leave(scripted: ScriptedEngine) -> None:
    counted: list[tuple[int, int]] = []

    await Pipeline(scripted, SIZES).run(
        TWO_CHUNKS, 0, PLAIN, discard, lambda *counts: counted.append(counts)
    )
    assert counted == [(1, 2), (2, 2)]


async def test_texts_run_side_by_side(scripted: ScriptedEngine) -> None:
    pipeline = Pipeline(scripted, SIZES)
    params = [msgspec.structs.replace(PLAIN, seed=seed) for seed in range(20)]
    audio = await asyncio.gather(*(emitted(pipeline, TWO_CHUNKS, each) for each in params))
    assert [b"".join(pcm) for pcm in audio] == [expected_pcm(TWO_CHUNKS, n) for n in range(20)]


async def test_pcm_conversion_uses_at_most_the_configured_threads(scripted: ScriptedEngine) -> None:
    of_two, threads = threading.Barrier(2, timeout=PATIENCE_S), set()

    class Waiting:
        def __init__(self, state: bytes) -> None:
            pass

        def push(self, audio: Samples, last: bool) -> Samples:
            threads.add(threading.get_ident())
            of_two.wait()
            return audio

    scripted.new_watermark = Waiting  # type: ignore[method-assign, assignment]
    pipeline = Pipeline(scripted, SIZES, threads=2)
    await asyncio.gather(*(pipeline.run("audio1", 0, PLAIN, discard) for _ in range(8)))
    assert len(threads) == 2
    pipeline.close()


# --- how the stages keep pace ---------------------------------------------------------------------


async def test_t3_begins_the_next_chunk_while_s3gen_is_at_the_last() -> None:
    engine = HeldEngine()
    engine.t3.open()
    running = asyncio.create_task(
        Pipeline(engine, QueueSizes(100, 3)).run(TWO_CHUNKS, 0, PLAIN, never)
    )
    await until(lambda: len(engine.chunks) == 2)
    assert engine.s3gen.passed == 0
    running.cancel()
    await asyncio.wait([running])


async def test_stops_after_the_text_chunk_that_s3gen_decodes() -> None:
    engine = HeldEngine()
    engine.t3.open()
    stopping = False
    pieces: list[bytes] = []

    async def emit(pcm: bytes) -> None:
        pieces.append(pcm)

    pipeline = Pipeline(engine, QueueSizes(100, 3))
    running = asyncio.create_task(
        pipeline.run(TWO_CHUNKS, 0, PLAIN, emit, should_stop=lambda: stopping)
    )
    await until(lambda: len(engine.chunks) == 2)
    stopping = True
    engine.s3gen.open()
    point = await running
    assert point == ResumePoint(text_chunk=1)
    await pipeline.run(TWO_CHUNKS, 0, PLAIN, emit, resume_point=point)
    assert b"".join(pieces) == expected_pcm(TWO_CHUNKS, PLAIN.seed)
    assert await pipeline.run("one", 0, PLAIN, emit, should_stop=lambda: True) is None


@pytest.mark.parametrize("waiting", [1, 2, 5])
async def test_t3_is_no_more_than_a_queue_ahead_of_s3gen(waiting: int) -> None:
    engine = HeldEngine()
    engine.t3.open()
    pipeline = Pipeline(engine, QueueSizes(waiting, 3))
    running = asyncio.create_task(pipeline.run("audio1 " * 40, 0, PLAIN, never))
    await until(lambda: engine.t3.passed >= waiting + 2)
    await at_rest(lambda: engine.t3.passed)
    # one is with S3Gen, one waits to be put
    assert engine.t3.passed == waiting + 2
    running.cancel()
    await asyncio.wait([running])


@pytest.mark.parametrize("waiting", [1, 3])
async def test_s3gen_is_no_more_than_a_queue_ahead_of_the_client(waiting: int) -> None:
    engine = HeldEngine()
    engine.t3.open()
    engine.s3gen.open()
    emitting = asyncio.Event()

    async def stuck(pcm: bytes) -> None:
        emitting.set()
        await asyncio.Event().wait()

    pipeline = Pipeline(engine, QueueSizes(2, waiting))
    running = asyncio.create_task(pipeline.run("audio1 " * 40, 0, PLAIN, stuck))
    await asyncio.wait_for(emitting.wait(), PATIENCE_S)
    await until(lambda: engine.s3gen.passed >= waiting + 2)
    await at_rest(lambda: engine.s3gen.passed, lambda: engine.t3.passed)
    assert engine.s3gen.passed == waiting + 2
    running.cancel()
    await asyncio.wait([running])


async def test_every_stage_counts_its_steps() -> None:
    engine = HeldEngine()
    pipeline = Pipeline(engine, SIZES)
    running = asyncio.create_task(pipeline.run("audio1", 0, PLAIN, discard))
    seen = [pipeline.steps]
    for open_next in (engine.t3.open, engine.s3gen.open):
        await at_rest(lambda: pipeline.steps)
        open_next(1)
        await until(lambda: pipeline.steps > seen[-1])
        seen.append(pipeline.steps)
    await running
    assert pipeline.steps > seen[-1]  # those of PCM


# --- pauses ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("fade_ms", [0, 30])
async def test_a_pause_is_silence_of_its_length_between_two_chunks(
    scripted: ScriptedEngine, fade_ms: int
) -> None:
    """Whole chunks stand around it: they do not fade into silence."""
    params = msgspec.structs.replace(PLAIN, crossfade_duration_milliseconds=fade_ms)
    heard = await spoken(scripted, "audio2\n\naudio3\u2028audio1\U000f03e8", params)
    pieces = [expected_pcm(f"audio{tokens}", PLAIN.seed) for tokens in (2, 3, 1)]
    silences = [bytes(2 * round(24_000 * pause_s)) for pause_s in (0.4, 0.25, 1.0)]
    assert heard == b"".join(part for pair in zip(pieces, silences, strict=True) for part in pair)


async def test_a_text_of_which_nothing_can_be_spoken_is_refused(scripted: ScriptedEngine) -> None:
    with pytest.raises(EmptyText):
        await spoken(scripted, "😀")


# --- how a text ends early ------------------------------------------------------------------------


@pytest.mark.fault(13)
@pytest.mark.parametrize(("slices", "stages"), [(0, {"t3"}), (1, {"t3", "s3gen"})])
async def test_cancelling_stops_every_stage(slices: int, stages: set[str]) -> None:
    engine = HeldEngine()
    engine.t3.open(slices)
    running = asyncio.create_task(Pipeline(engine, SIZES).run("audio1 " * 40, 0, PLAIN, never))
    await at_rest(lambda: engine.t3.passed, lambda: engine.s3gen.passed)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert engine.cancelled == stages


async def test_an_error_in_t3_is_raised_and_stops_s3gen() -> None:
    engine = HeldEngine()
    engine.t3.open()
    with pytest.raises(RuntimeError, match="scripted"):
        await Pipeline(engine, SIZES).run("audio1 raise", 0, PLAIN, never)
    assert engine.cancelled == {"s3gen"}


async def test_an_error_in_s3gen_is_raised_and_stops_t3() -> None:
    engine = HeldEngine()
    engine.t3.open(1)

    async def fail() -> None:
        raise EngineFailed("out of memory")

    engine.s3gen.step = fail  # type: ignore[method-assign]
    with pytest.raises(EngineFailed, match="out of memory"):
        await Pipeline(engine, SIZES).run("audio1 audio1", 0, PLAIN, never)
    assert engine.cancelled == {"t3"}


async def test_an_error_in_pcm_is_raised_and_stops_the_others() -> None:
    engine = HeldEngine()
    engine.t3.open(2)
    engine.s3gen.open(1)

    async def fail(pcm: bytes) -> None:
        await until(lambda: engine.t3.passed == 2)
        raise ConnectionError("the connection is closed")

    with pytest.raises(ConnectionError, match="the connection is closed"):
        await Pipeline(engine, SIZES).run("audio1 audio1 audio1", 0, PLAIN, fail)
    assert engine.cancelled == {"t3", "s3gen"}


async def test_errors_do_not_affect_other_texts(scripted: ScriptedEngine) -> None:
    texts = "audio1 sleep0 raise", "audio1 sleep0 audio2"
    results = await asyncio.gather(
        *(spoken(scripted, text) for text in texts), return_exceptions=True
    )
    assert isinstance(results[0], RuntimeError)
    assert results[1] == expected_pcm("audio1 audio2", PLAIN.seed)


# --- languages ------------------------------------------------------------------------------------


class Polyglot(ScriptedEngine):
    languages: ClassVar = {"de": None, "zh": None, "ja": "its package is missing"}

    def __init__(self, config: EngineConfig) -> None:
        super().__init__(config)
        self.normalised: list[str] = []

    def normalize_text(self, text: str, language: str) -> str:
        self.normalised.append(language)
        return text


async def test_text_is_normalised_and_split_by_its_language() -> None:
    engine = Polyglot(EngineConfig("cpu", 1, ""))
    text = "audio1。" * 4
    for language, chunks in (("de-AT", 1), ("ZH", 4)):
        counted: list[tuple[int, int]] = []
        params = msgspec.structs.replace(PLAIN, language=language)
        pipeline = Pipeline(engine, SIZES)
        await pipeline.run(text, 0, params, discard, lambda *done, at=counted: at.append(done))
        pipeline.close()
        assert counted[-1] == (chunks, chunks)
    assert engine.normalised == ["de", "zh"]


@pytest.mark.parametrize("language", ["en", "ja"])
async def test_language_that_the_engine_does_not_speak_is_refused(language: str) -> None:
    params = msgspec.structs.replace(PLAIN, language=language)
    with pytest.raises(UnsupportedLanguage):
        await spoken(Polyglot(EngineConfig("cpu", 1, "")), "audio1", params)
