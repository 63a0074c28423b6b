"""The pipeline: text in, PCM out, in three concurrent stages joined by short queues.

    text → chunks ─ T3 ─[slices]─ S3Gen ─[audio]─ PCM ─ emit(bytes)

The bounded queues are the only back-pressure: T3 starts a text chunk while S3Gen still decodes the
one before. Cancelling `run` cancels all stages; an error in one cancels the others and is raised.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import NamedTuple

from app.core import progress
from app.core.audio import Samples
from app.core.engine_config import QueueSizes
from app.core.errors import EmptyText
from app.core.params import SynthesisParams
from app.engines.base import Engine, SpeechSlice, Voice
from app.pipeline.joiner import ChunkJoiner, to_int16
from app.text.chunking import TextChunk, split
from app.text.punctuation import plain_punctuation

Emit = Callable[[bytes], Awaitable[None]]
Slices = asyncio.Queue[SpeechSlice | None]


class AudioPiece(NamedTuple):
    """The decoded audio of one slice; `last` ends a text chunk."""

    audio: Samples
    last: bool


AudioPieces = asyncio.Queue[AudioPiece | None]


class Pipeline:
    """Runs any number of texts through one engine at once; `threads` convert audio to PCM."""

    def __init__(self, engine: Engine, sizes: QueueSizes, threads: int = 1) -> None:
        self._engine = engine
        self._normalize: Callable[[str], str] = getattr(engine, "normalize_text", plain_punctuation)
        self._sizes = sizes
        self._pcm_threads = ThreadPoolExecutor(threads, thread_name_prefix="pcm")
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
    ) -> None:
        """Speak `text`: awaits `emit` with PCM (int16 little-endian, mono), piece by piece.

        `on_chunk(done, total)` is called after each text chunk.
        """
        chunks = split(self._normalize(text), params.text_processing_chunk_size)
        if not chunks:
            raise EmptyText("The model can speak nothing in this text.", param="text")
        slices = Slices(self._sizes.slices)
        audio = AudioPieces(self._sizes.audio)
        done = itertools.count(1)
        try:
            async with asyncio.TaskGroup() as stages:
                stages.create_task(self._t3(chunks, voice, params, slices))
                stages.create_task(self._s3gen(voice, params, slices, audio))
                stages.create_task(
                    self._pcm(
                        chunks, params, audio, emit, lambda: on_chunk(next(done), len(chunks))
                    )
                )
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None

    def _step(self) -> None:
        self._steps += 1
        progress.step()

    def close(self) -> None:
        self._pcm_threads.shutdown(wait=False)

    async def _t3(
        self,
        chunks: list[TextChunk],
        voice: Voice,
        params: SynthesisParams,
        slices: Slices,
    ) -> None:
        for chunk in chunks:
            pieces = self._engine.speech_tokens(chunk, voice, params)
            async with aclosing(pieces):
                async for piece in pieces:
                    self._step()
                    await slices.put(piece)
        await slices.put(None)

    async def _s3gen(
        self,
        voice: Voice,
        params: SynthesisParams,
        slices: Slices,
        audio: AudioPieces,
    ) -> None:
        decoder = self._engine.new_decoder(voice, params)
        while piece := await slices.get():
            decoded = await decoder.decode(piece)
            self._step()
            await audio.put(AudioPiece(decoded, piece.last))
        await audio.put(None)

    async def _pcm(
        self,
        chunks: list[TextChunk],
        params: SynthesisParams,
        audio: AudioPieces,
        emit: Emit,
        chunk_done: Callable[[], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        joiner = ChunkJoiner(params, self._engine.sample_rate)
        watermark = self._engine.new_watermark()
        pauses = (chunk.pause_s for chunk in chunks)

        def convert(piece: AudioPiece | None) -> bytes:
            pause_s = next(pauses, 0.0) if piece and piece.last else 0.0
            joined = joiner.push(*piece, pause_s) if piece else joiner.finish()
            return to_int16(watermark.push(joined, last=piece is None) if watermark else joined)

        more = True
        while more:
            piece = await audio.get()
            more = piece is not None
            pcm = await loop.run_in_executor(self._pcm_threads, convert, piece)
            self._step()
            if pcm:
                await emit(pcm)
            if piece and piece.last:
                chunk_done()
