"""The Chatterbox engine: T3 and S3Gen behind the protocol of `engines.base`, for any `ModelSpec`.

T3 and S3Gen have a thread each; both advance all jobs together. What they run at every step is
compiled and, on a GPU, captured as CUDA graphs.
"""

import asyncio
import gc
import logging
import shutil
import sys
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, aclosing, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch

from app.core import progress
from app.core.audio import SAMPLE_RATE, SAMPLES_PER_TOKEN, Samples
from app.core.engine_config import ChatterboxOptions, EngineConfig
from app.core.native import trim_heap
from app.core.params import SynthesisParams
from app.engines.base import RecordedChunk, SpeechSlice, TextChunk, Watermark
from app.engines.cancellation import run_shielded
from app.engines.chatterbox.checkpoint.loader import load
from app.engines.chatterbox.conditioning.cache import ConditionalsDiskCache
from app.engines.chatterbox.conditioning.conditionals import Conditionals
from app.engines.chatterbox.conditioning.prepare import prepare
from app.engines.chatterbox.frontend.budget import max_tokens
from app.engines.chatterbox.frontend.english import EnglishFrontend
from app.engines.chatterbox.frontend.multilingual import MultilingualFrontend
from app.engines.chatterbox.frontend.plain_text import PLAIN_TEXTS
from app.engines.chatterbox.frontend.turbo import TurboFrontend
from app.engines.chatterbox.runtime.compilation import NO_COMPILER, TorchCompiler
from app.engines.chatterbox.runtime.cuda_graphs import (
    EAGER,
    CudaGraphCapturer,
    GraphCaptureError,
    GraphCapturer,
)
from app.engines.chatterbox.runtime.device_errors import translate_device_errors
from app.engines.chatterbox.runtime.linear import has_onednn
from app.engines.chatterbox.s3gen.scheduler import FIRST_SLICE_DEADLINE, S3GenScheduler, SliceTask
from app.engines.chatterbox.s3gen.stream import S3Gen, StreamDecoder
from app.engines.chatterbox.t3.batch import T3Batch
from app.engines.chatterbox.t3.request import FinishReason, T3Request
from app.engines.chatterbox.t3.scheduler import T3Scheduler
from app.engines.chatterbox.variants import ModelSpec, spec_of
from app.engines.chatterbox.voice_conversion import conversion_slices, tokens_of
from app.engines.chatterbox.watermark import StreamingWatermark, load_watermarker

log = logging.getLogger(__name__)

MAX_LEAD_SLICES = 2
"""How far T3 may be ahead of S3Gen, in slices, before a job is left out of T3's batch."""

FRONTENDS: dict[str, Callable[..., Any]] = {
    "english": EnglishFrontend,
    "multilingual": MultilingualFrontend,
    "turbo": TurboFrontend,
}
"""By `FrontendSpec.kind`."""

OLD_CACHE_FOLDER = ".voices"
"""Where earlier versions kept prepared voices in `MODEL_PATH`, even of deleted ones."""

T3_PRIORITY, S3GEN_PRIORITY = -1, 0
"""CUDA stream priorities (lower runs first): S3Gen's long steps fill the gaps that T3's leave."""


class ChatterboxEngine:
    """One of Resemble AI's Chatterbox models, from the files in `config.model_path`."""

    sample_rate = SAMPLE_RATE
    clones_voices = True

    def __init__(self, config: EngineConfig, spec: ModelSpec | None = None) -> None:
        spec = spec or spec_of(config.variant, config.files)
        self.name, self.tags = spec.id, spec.tags
        self.defaults, self.unused = spec.defaults, spec.unused
        self.foreign_voice_defaults = spec.foreign_voice_defaults
        self.converts_speech = spec.converts_speech
        self.notice: str | None = None
        self.runaways = 0
        self._spec = spec
        self._options = config.tuning
        self._slots = config.slots
        self._on_gpu = config.device == "cuda"
        self._compiler = TorchCompiler() if config.torch_compile else NO_COMPILER
        self._capture_graphs = True
        self._watermarker = load_watermarker() if config.watermark else None
        folder = Path(config.model_path)
        self._models = load(
            folder,
            config.device,
            self._options.t3_dtype,
            self._options.s3gen_dtype,
            packed=not config.torch_compile and has_onednn(config.device),
            spec=spec,
        )
        if self._on_gpu:  # the CPU has many short tasks that must not wait for each other
            torch.set_num_threads(1)
            sys.setswitchinterval(0.0005)
        self.default_voice = self._models.default_voice.limit_prompt(
            self._options.voice_prompt_seconds
        )
        self._frontend = FRONTENDS[spec.frontend.kind](self._models.tokenizer)
        missing = getattr(self._frontend, "missing_languages", {})
        self.languages = {code: missing.get(code) for code in spec.languages}
        self._disk_cache = ConditionalsDiskCache(self._models)
        shutil.rmtree(folder / OLD_CACHE_FOLDER, ignore_errors=True)
        self._voice_thread = ThreadPoolExecutor(1, "voices")
        self._build()

    def _capturer(self, priority: int) -> GraphCapturer:
        return CudaGraphCapturer(priority) if self._on_gpu else EAGER

    def _build(self) -> None:
        t3_capturer, s3gen_capturer = (
            self._capturer(priority) if self._capture_graphs else EAGER
            for priority in (T3_PRIORITY, S3GEN_PRIORITY)
        )
        batch = T3Batch(self._models.t3, self._spec.t3, self._slots, self._compiler, t3_capturer)
        s3gen = S3Gen.of(
            self._models, self._compiler, s3gen_capturer, self._options.s3gen_context_tokens
        )
        self._new_stream = partial(StreamDecoder, s3gen)
        if self._on_gpu:
            torch.cuda.synchronize()  # the schedulers' own CUDA streams read what was written here
        self._t3_scheduler = T3Scheduler(
            batch, partial(self._bind_thread, t3_capturer), self._trim_memory
        )
        self._s3gen_scheduler = S3GenScheduler(
            s3gen, partial(self._bind_thread, s3gen_capturer), self._trim_memory
        )
        self._built = True

    def _bind_thread(self, capturer: GraphCapturer) -> None:
        self._compiler.bind_thread()
        capturer.bind_thread()

    async def _teardown(self) -> None:
        self._built = False
        await asyncio.to_thread(self._t3_scheduler.close)
        await asyncio.to_thread(self._s3gen_scheduler.close)
        del self._t3_scheduler, self._s3gen_scheduler, self._new_stream

    @property
    def compiled(self) -> bool:
        return self._compiler is not NO_COMPILER

    @property
    def steps(self) -> int:
        if not self._built:
            return 0
        return self._t3_scheduler.steps + self._s3gen_scheduler.steps

    def normalize_text(self, text: str, language: str) -> str:
        return PLAIN_TEXTS[self._spec.frontend.kind](text, language).logged()

    async def prepare_voice(self, samples: Samples, rate: int) -> Conditionals:
        return await self._prepared(partial(prepare, self._models, samples, rate))

    async def prepare_kept_voice(self, samples: Samples, rate: int, path: Path) -> Conditionals:
        """See `engines.base`."""
        own = path.with_suffix(f".{self._spec.name}{path.suffix}")
        return await self._prepared(partial(self._disk_cache.get, samples, rate, own))

    async def _prepared(self, get: Callable[[], Conditionals]) -> Conditionals:
        def run() -> Conditionals:
            self._release_memory()  # preparing a voice needs more memory than anything else
            conditionals = get()
            self._release_memory()
            if self._on_gpu:
                torch.cuda.current_stream().synchronize()  # other CUDA streams read the tensors
            return conditionals

        with translate_device_errors():
            conditionals = await run_shielded(self._voice_thread, run)
        return conditionals.limit_prompt(self._options.voice_prompt_seconds)

    async def speech_tokens(
        self, chunk: TextChunk, voice: Conditionals, params: SynthesisParams
    ) -> AsyncGenerator[SpeechSlice, None]:
        """Slices of n integers each, of the lengths that `slice_lengths` gives except at the end.

        A chunk that reaches its length limit is cut off and logged. Raises `EmptyText`,
        `TextTooLong`, `OutOfMemory`, `DeviceFailed`.
        """
        mixed = np.random.SeedSequence((params.seed, chunk.index)).generate_state(1)
        request = T3Request(
            text_tokens=self._frontend.tokenize(chunk.text, params.language),
            voice=voice,
            params=params,
            seed=int(mixed[0]),
            max_tokens=max_tokens(self._spec, chunk.text, params.language),
        )
        max_lead_tokens = MAX_LEAD_SLICES * params.audio_tokens_per_slice
        lengths = slice_lengths(params.audio_tokens_per_slice, self._options, chunk.index)
        trim_tokens = self._spec.t3.end_trim_tokens
        tokens: list[int] = []
        length = next(lengths)
        with translate_device_errors():
            async with aclosing(self._t3_scheduler.generate(request, max_lead_tokens)) as outputs:
                async for output in outputs:
                    progress.step()
                    if output.token is not None:
                        tokens.append(output.token)
                    if output.finish_reason:
                        tokens.extend(self._spec.t3.silence_tail)
                    if output.finish_reason is FinishReason.LENGTH:
                        self.runaways += 1
                        log.warning("a text chunk of %d characters was cut", len(chunk.text))
                    if output.finish_reason:
                        yield SpeechSlice(tokens, last=True, trim_tokens=trim_tokens)
                    elif len(tokens) == length + trim_tokens:
                        yield SpeechSlice(tokens[:length], last=False)
                        tokens, length = tokens[length:], next(lengths)

    async def recorded_tokens(
        self, chunk: RecordedChunk, params: SynthesisParams
    ) -> AsyncGenerator[SpeechSlice, None]:
        """The speech tokens of a recording. Raises `OutOfMemory`, `DeviceFailed`."""
        with translate_device_errors():
            get = partial(tokens_of, self._models, chunk.speech, chunk.rate)
            tokens = await run_shielded(self._voice_thread, get)
        progress.step()
        first = next(slice_lengths(params.audio_tokens_per_slice, self._options, chunk.index))
        slices = list(conversion_slices(tokens, first)) or [[]]
        for number, piece in enumerate(slices, 1):
            yield SpeechSlice(piece, last=number == len(slices))

    def new_decoder(
        self, voice: Conditionals, params: SynthesisParams, first_chunk: int = 0
    ) -> "_Decoder":
        stream = self._new_stream(voice.s3gen, params, first_chunk)
        deadline = monotonic() if first_chunk else FIRST_SLICE_DEADLINE
        return _Decoder(self._s3gen_scheduler, stream, self._cpu_exclusive, deadline)

    def _cpu_exclusive(self) -> AbstractContextManager[None]:
        """On a CPU, pause T3 during a job's first slice: S3Gen keeps all cores busy."""
        return nullcontext() if self._on_gpu else self._t3_scheduler.paused()

    def new_watermark(self, state: bytes = b"") -> Watermark | None:
        return StreamingWatermark(self._watermarker, state) if self._watermarker else None

    async def warm_up(self) -> None:
        """Run both stages in every shape; go on without compilation or graphs if they fail."""
        notices: list[str] = []
        while notice := await self._try_warm_up():
            notices.append(notice)
            self.notice = "; ".join(notices)
            log.warning(notice)
            await self._teardown()
            gc.collect()  # the traceback held tensors that a full GPU has no room for
            self._build()
        await asyncio.to_thread(self._release_memory)

    async def _try_warm_up(self) -> str | None:
        """If it fails, switch off what failed and return a notice; raise if nothing is left."""
        try:
            await self._t3_scheduler.warm()  # one stage after the other: see `compilation`
            await self._s3gen_scheduler.warm_up(self.default_voice.s3gen)
        except GraphCaptureError as error:
            log.debug("CUDA graph capture failed", exc_info=True)
            self._capture_graphs = False
            return f"no CUDA graphs, speech takes longer: {_root_cause(error.args[0])}"
        except Exception as error:  # a compiler's errors have no common type
            if not self.compiled:
                raise
            log.debug("compilation failed", exc_info=True)
            self._compiler = NO_COMPILER
            return f"not compiled, speech takes longer: {_root_cause(error)}"
        return None

    def _release_memory(self) -> None:
        """On a CPU, free mapped weights that were only converted, and unused heap pages."""
        for file in self._models.mapped_files:
            file.release_pages()
        self._trim_memory()

    def _trim_memory(self) -> None:
        if not self._on_gpu:
            trim_heap()

    async def free_memory(self) -> None:
        gc.collect()
        if self._on_gpu:
            with translate_device_errors():
                torch.cuda.empty_cache()

    async def close(self) -> None:
        if self._built:  # a rebuild may have failed
            await self._teardown()
        await asyncio.to_thread(self._voice_thread.shutdown, cancel_futures=True)


def slice_lengths(unit: int, options: ChatterboxOptions, chunk_index: int) -> Iterator[int]:
    """Yield the slice lengths of a job's text chunk, in speech tokens, without end.

    With every slice S3Gen solves the prompt and the text chunk so far again. So the first slice is
    short, for latency, and on a CPU each is longer than the one before. Lengths never depend on
    timing, so that a seed always gives the same audio.
    """
    if chunk_index == 0:  # during later ones audio is playing already
        yield min(options.first_slice_tokens or unit, unit)
    length = unit * options.slice_growth
    while True:
        yield int(length)
        length *= options.slice_growth


def _root_cause(error: BaseException) -> str:
    """First line of the innermost error: a compiler's outer ones may contain the whole program."""
    while inner := getattr(error, "inner_exception", None):
        error = inner
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


@dataclass
class _Decoder:
    """One job's stream. `deadline`: when its client will have played all audio so far.

    `num_tokens`: of the text chunk so far.
    """

    scheduler: S3GenScheduler
    stream: StreamDecoder
    cpu_exclusive: Callable[[], AbstractContextManager[None]]
    deadline: float
    num_tokens: int = 0

    async def decode(self, piece: SpeechSlice) -> Samples:
        """Raises `OutOfMemory`, `DeviceFailed`."""
        first = self.deadline == FIRST_SLICE_DEADLINE
        with translate_device_errors(), self.cpu_exclusive() if first else nullcontext():
            task = SliceTask(self.stream, piece.tokens, piece.last, self.deadline)
            audio = await self.scheduler.decode(task)
        self.num_tokens += len(piece.tokens)
        if piece.last:
            trimmed = min(piece.trim_tokens, max(0, self.num_tokens - 1))
            audio = audio[: len(audio) - trimmed * SAMPLES_PER_TOKEN]
            self.num_tokens = 0
        if len(audio):
            self.deadline = max(self.deadline, monotonic()) + len(audio) / SAMPLE_RATE
        return audio.numpy()
