"""The pipeline: text in, PCM out, in three concurrent stages joined by short queues.

    text → chunks ─ T3 ─[slices]─ S3Gen ─[audio]─ PCM ─ emit(bytes)

To convert a recording to another voice, the engine takes its speech tokens in place of T3's. The
bounded queues are the only back-pressure: T3 starts a text chunk while S3Gen still decodes the
one before. Cancelling `run` cancels all stages; an error in one cancels the others and is raised.
"""

import asyncio
import itertools
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from functools import partial
from typing import Any, NamedTuple

from msgspec.structs import replace

from app.audio.pauses import split_at_pauses
from app.core import progress
from app.core.audio import TOKENS_PER_SECOND, Samples
from app.core.engine_config import QueueSizes
from app.core.errors import EmptyText
from app.core.params import SynthesisParams
from app.core.resume_point import BEGINNING, ResumePoint
from app.engines.base import Decoder, Engine, RecordedChunk, SpeechSlice, Voice
from app.engines.languages import languages_of, resolve_language
from app.pipeline.joiner import ChunkJoiner, to_int16
from app.text.chunking import TextChunk, split
from app.text.languages import language_of
from app.text.punctuation import plain_punctuation

LONG_TEXT = 1000
"""In characters; to split more takes milliseconds."""

MAX_RECORDED_S = 28.0
"""Of one chunk: the speech tokenizer takes at most 30 seconds at once."""

OVERLAP_TOKENS = 2
"""How much of a recorded chunk the next one repeats: S3Gen fades each chunk's first token in.

That token is dropped, and the second is crossfaded.
"""

Emit = Callable[[bytes], Awaitable[None]]
TokensOf = Callable[[Any], AsyncGenerator[SpeechSlice, None]]
"""The speech tokens of a text chunk or of a recorded one."""

Slices = asyncio.Queue[SpeechSlice | None]


class AudioPiece(NamedTuple):
    """The decoded audio of one slice; `last` ends a text chunk."""

    audio: Samples
    last: bool


AudioPieces = asyncio.Queue[AudioPiece | None]


class Pipeline:
    """Runs any number of texts through one engine at once; `threads` split and convert."""

    def __init__(self, engine: Engine, sizes: QueueSizes, threads: int = 1) -> None:
        self._engine = engine
        self._normalize: Callable[[str, str], str] = getattr(
            engine, "normalize_text", lambda text, language: plain_punctuation(text)
        )
        self._sizes = sizes
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="pipeline")
        self._steps = 0

    @property
    def steps(self) -> int:
        """A counter of progress that includes the engine's."""
        return self._steps + self._engine.steps

    async def run(
        self,
        text: str,
        voice: Voice,
        params: SynthesisParams,
        emit: Emit,
        on_chunk: Callable[[int, int], None] = lambda done, total: None,
        *,
        resume_point: ResumePoint = BEGINNING,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> ResumePoint | None:
        """Speak `text`: awaits `emit` with PCM (int16 little-endian, mono), piece by piece.

        `on_chunk(done, total)` is called after each text chunk. If `should_stop()` after one, the
        point is returned from which another run emits what is left; None at the end of the text.
        Raises `UnsupportedLanguage`.
        """
        language = resolve_language(params.language, self._engine.name, languages_of(self._engine))
        params = replace(params, language=language)
        chunks = await self._split(text, params)
        if not chunks:
            raise EmptyText("The model can speak nothing in this text.", param="text")

        def tokens_of(chunk: TextChunk) -> AsyncGenerator[SpeechSlice, None]:
            return self._engine.speech_tokens(chunk, voice, params)

        joiner = ChunkJoiner(params, self._engine.sample_rate, resume_point.joiner)
        run = _Run(chunks, tokens_of, voice, params, joiner, resume_point)
        return await self._run(run, emit, on_chunk, should_stop)

    async def convert(
        self,
        recording: Samples,
        rate: int,
        voice: Voice,
        params: SynthesisParams,
        emit: Emit,
        *,
        resume_point: ResumePoint = BEGINNING,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> ResumePoint | None:
        """Convert `recording`, float32 [n] at `rate` Hz, to another voice.

        As `run`, for an engine that `converts_speech`. The audio is as long as the recording, in
        whole speech tokens.
        """
        pieces = split_at_pauses(recording, rate, MAX_RECORDED_S, OVERLAP_TOKENS)
        chunks = [RecordedChunk(index, piece, rate) for index, piece in enumerate(pieces)]
        half_ms = OVERLAP_TOKENS * 1000 // TOKENS_PER_SECOND // 2
        joining = replace(
            params,
            remove_leading_milliseconds=half_ms,
            remove_trailing_milliseconds=0,
            crossfade_duration_milliseconds=half_ms,
            chunk_overlap_method="full",
        )
        joiner = ChunkJoiner(
            joining,
            self._engine.sample_rate,
            resume_point.joiner,
            keeps_start=resume_point.text_chunk == 0,
        )
        engine: Any = self._engine
        tokens_of = partial(engine.recorded_tokens, params=params)
        run = _Run(chunks, tokens_of, voice, params, joiner, resume_point)
        return await self._run(run, emit, lambda done, total: None, should_stop)

    async def _run(
        self,
        run: "_Run",
        emit: Emit,
        on_chunk: Callable[[int, int], None],
        should_stop: Callable[[], bool],
    ) -> ResumePoint | None:
        first = run.resume_point.text_chunk
        left = run.chunks[first:]
        slices = Slices(self._sizes.slices)
        audio = AudioPieces(self._sizes.audio)
        decoder = self._engine.new_decoder(run.voice, run.params, first)
        pcm = _PcmConverter(self._engine, run.joiner, run.resume_point.watermark)
        done = itertools.count(first + 1)
        try:
            async with asyncio.TaskGroup() as stages:
                t3 = stages.create_task(self._t3(left, run.tokens_of, slices))
                s3gen = stages.create_task(self._s3gen(decoder, slices, audio, should_stop))
                stages.create_task(
                    self._pcm(pcm, left, audio, emit, lambda: on_chunk(next(done), len(run.chunks)))
                )
                next_chunk = first + await s3gen
                t3.cancel()
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        if next_chunk < len(run.chunks):
            return pcm.resume_point(next_chunk)
        await self._emit(pcm.finish, emit)
        return None

    async def _split(self, text: str, params: SynthesisParams) -> list[TextChunk]:
        def run() -> list[TextChunk]:
            language = language_of(params.language)
            plain = self._normalize(text, language.code)
            return split(plain, params.text_processing_chunk_size, language)

        if len(text) <= LONG_TEXT:
            return run()
        return await asyncio.get_running_loop().run_in_executor(self._threads, run)

    def _step(self) -> None:
        self._steps += 1
        progress.step()

    def close(self) -> None:
        self._threads.shutdown(wait=False)

    async def _t3(
        self, chunks: Sequence[TextChunk | RecordedChunk], tokens_of: TokensOf, slices: Slices
    ) -> None:
        for chunk in chunks:
            async with aclosing(tokens_of(chunk)) as pieces:
                async for piece in pieces:
                    self._step()
                    await slices.put(piece)
        await slices.put(None)

    async def _s3gen(
        self,
        decoder: Decoder,
        slices: Slices,
        audio: AudioPieces,
        should_stop: Callable[[], bool],
    ) -> int:
        """Returns the number of text chunks that it has decoded."""
        chunks = 0
        while piece := await slices.get():
            decoded = await decoder.decode(piece)
            self._step()
            await audio.put(AudioPiece(decoded, piece.last))
            chunks += piece.last
            if piece.last and should_stop():
                break
        await audio.put(None)
        return chunks

    async def _pcm(
        self,
        converter: "_PcmConverter",
        chunks: Sequence[TextChunk | RecordedChunk],
        audio: AudioPieces,
        emit: Emit,
        chunk_done: Callable[[], None],
    ) -> None:
        pauses = (chunk.pause_s for chunk in chunks)
        while piece := await audio.get():
            pause_s = next(pauses) if piece.last else 0.0
            await self._emit(partial(converter.push, piece, pause_s), emit)
            if piece.last:
                chunk_done()

    async def _emit(self, convert: Callable[[], bytes], emit: Emit) -> None:
        pcm = await asyncio.get_running_loop().run_in_executor(self._threads, convert)
        self._step()
        if pcm:
            await emit(pcm)


class _Run(NamedTuple):
    """What is to be spoken, and how. `params`: for the engine. `joiner`: of the chunks' audio."""

    chunks: Sequence[TextChunk | RecordedChunk]
    tokens_of: TokensOf
    voice: Voice
    params: SynthesisParams
    joiner: ChunkJoiner
    resume_point: ResumePoint


class _PcmConverter:
    """Joins, marks and converts the audio of one run."""

    def __init__(self, engine: Engine, joiner: ChunkJoiner, watermark: bytes) -> None:
        """`watermark`: the state of that of the stream that this one continues."""
        self._joiner = joiner
        self._watermark = engine.new_watermark(watermark)

    def push(self, piece: AudioPiece, pause_s: float) -> bytes:
        return self._convert(self._joiner.push(*piece, pause_s), last=False)

    def finish(self) -> bytes:
        return self._convert(self._joiner.finish(), last=True)

    def resume_point(self, text_chunk: int) -> ResumePoint:
        watermark = self._watermark.state if self._watermark else b""
        return ResumePoint(text_chunk, self._joiner.state, watermark)

    def _convert(self, joined: Samples, *, last: bool) -> bytes:
        return to_int16(self._watermark.push(joined, last) if self._watermark else joined)
