"""The Chatterbox engine: T3 and S3Gen behind the protocol of `engines.base`.

Text chunks go to T3's step loop, which has a thread of its own and advances all jobs together;
slices go to S3Gen's, which takes the most urgent ones first. What these two threads call at every
step is compiled and, on a GPU, recorded, or, where that fails, left as it is. Everything in here is
glue: what the models do is in the modules beside this one.
"""

import asyncio
import gc
import logging
import sys
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, aclosing, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import monotonic

import numpy as np
import torch

from app.core.audio import SAMPLE_RATE, Samples
from app.core.engine_config import EngineConfig
from app.core.errors import StartupError
from app.core.native import trim_heap
from app.core.params import SynthesisParams
from app.engines.base import SpeechSlice, TextChunk, Watermark
from app.engines.cancellation import run_shielded
from app.engines.chatterbox.checkpoint.loader import load
from app.engines.chatterbox.conditioning.conditionals import ChatterboxVoice, VoiceCache
from app.engines.chatterbox.frontend.registry import FRONTENDS
from app.engines.chatterbox.runtime.compilation import NO_COMPILER, Compiler, TorchCompiler
from app.engines.chatterbox.runtime.cuda_graphs import (
    EAGER,
    CudaGraphCapturer,
    GraphCaptureError,
    GraphCapturer,
)
from app.engines.chatterbox.runtime.device_errors import translate_device_errors
from app.engines.chatterbox.runtime.linear import has_onednn
from app.engines.chatterbox.s3gen.scheduler import NOTHING_HEARD, DecodeLoop, Slice
from app.engines.chatterbox.s3gen.slice_schedule import slice_lengths
from app.engines.chatterbox.s3gen.stream import S3Gen, StreamDecoder
from app.engines.chatterbox.t3.batch import T3Batch
from app.engines.chatterbox.t3.request import FinishReason, T3Request
from app.engines.chatterbox.t3.scheduler import T3Scheduler
from app.engines.chatterbox.variants import ENGLISH
from app.engines.chatterbox.watermark import StreamingWatermark, load_watermarker
from app.text.punctuation import plain_punctuation

log = logging.getLogger(__name__)

SLICES_AHEAD = 2
"""How far T3 may be in front of S3Gen, in slices, before a job stands aside."""

VOICE_CACHE = ".voices"

T3_PRIORITY, S3GEN_PRIORITY = -1, 0
"""On a GPU, where less is sooner: S3Gen's long steps fill what T3's short ones leave."""


@dataclass(frozen=True)
class _Means:
    """What makes the hot path fast; a capturer is made for a priority on the GPU."""

    compiler: Compiler
    new_capturer: Callable[[int], GraphCapturer]


@dataclass(frozen=True)
class _Setback:
    """How the hot path has failed, in words, and what it is to be run with instead."""

    told: str
    instead: _Means


class ChatterboxEngine:
    """Resemble AI's Chatterbox, English, from the weights in `config.model_path`."""

    name = "chatterbox"
    sample_rate = SAMPLE_RATE
    clones_voices = True

    def __init__(self, config: EngineConfig) -> None:
        self.notice: str | None = None
        self.runaways = 0
        self._on_gpu = config.device == "cuda"
        self._slots = config.slots
        self._mark = load_watermarker() if config.watermark else None
        folder = Path(config.model_path)
        self._tuning = config.tuning
        self._models = load(
            folder,
            config.device,
            self._tuning.t3_dtype,
            self._tuning.s3gen_dtype,
            packed=not config.torch_compile and has_onednn(config.device),
        )
        if self._on_gpu:
            _share_the_cpu()
        if self._models.default_voice is None:
            raise StartupError(f"{folder / 'conds.pt'} is missing: it holds the default voice")
        self._frontend = FRONTENDS[ENGLISH.frontend.kind](self._models.tokenizer, ENGLISH)
        self.default_voice = self._cut(self._models.default_voice)
        self._voices = VoiceCache(folder / VOICE_CACHE, self._models)
        self._voice_thread = ThreadPoolExecutor(1, "voices")
        compiler = TorchCompiler() if config.torch_compile else NO_COMPILER
        self._assembled = False
        self._assemble(_Means(compiler, self._capturer))

    def _capturer(self, priority: int) -> GraphCapturer:
        return CudaGraphCapturer(priority) if self._on_gpu else EAGER

    def _assemble(self, means: _Means) -> None:
        """The hot path: both stages, then the threads that they stay on."""
        self._means, compiler = means, means.compiler
        t3_capturer = means.new_capturer(T3_PRIORITY)
        s3gen_capturer = means.new_capturer(S3GEN_PRIORITY)
        batch = T3Batch(
            self._models.t3, ENGLISH.t3, self._slots, compiler=compiler, capturer=t3_capturer
        )
        context = self._tuning.s3gen_context_tokens
        s3gen = S3Gen.of(self._models.s3gen, compiler, s3gen_capturer, context)
        self._new_stream = partial(StreamDecoder, s3gen)
        if self._on_gpu:
            torch.cuda.synchronize()  # the threads' streams must find everything whole
        tidy_up = _nothing if self._on_gpu else trim_heap
        self._t3_loop = T3Scheduler(
            batch,
            bind_thread=_each(compiler.bind_thread, t3_capturer.bind_thread),
            trim_memory=tidy_up,
        )
        self._s3gen_loop = DecodeLoop(
            s3gen,
            adopt=_each(compiler.bind_thread, s3gen_capturer.bind_thread),
            tidy_up=tidy_up,
        )
        self._assembled = True

    async def _dismantle(self) -> None:
        self._assembled = False
        await asyncio.to_thread(self._t3_loop.close)
        await asyncio.to_thread(self._s3gen_loop.close)
        del self._t3_loop, self._s3gen_loop, self._new_stream

    @property
    def compiled(self) -> bool:
        return self._means.compiler is not NO_COMPILER

    @property
    def steps(self) -> int:
        """T3's steps and the flow's."""
        return self._t3_loop.steps + self._s3gen_loop.steps

    async def prepare_voice(self, samples: Samples, rate: int) -> ChatterboxVoice:
        """Running streams go on meanwhile, on the other threads."""

        def prepare() -> ChatterboxVoice:
            self._forget_what_is_done()  # this takes more memory than anything else
            voice = self._voices.voice(samples, rate)
            self._forget_what_is_done()
            if self._on_gpu:
                torch.cuda.current_stream().synchronize()  # others use it on theirs
            return voice

        with translate_device_errors():
            return self._cut(await run_shielded(self._voice_thread, prepare))

    def _cut(self, voice: ChatterboxVoice) -> ChatterboxVoice:
        return voice.with_prompt_of(self._tuning.voice_prompt_seconds)

    def normalize_text(self, text: str) -> str:
        return plain_punctuation(text)

    async def speech_tokens(
        self, chunk: TextChunk, voice: ChatterboxVoice, params: SynthesisParams
    ) -> AsyncGenerator[SpeechSlice, None]:
        """Slices of n integers each, as many as `slice_lengths` says but at the end.

        A chunk that takes implausibly many tokens is cut, which the log says. Raises `EmptyText`,
        `TextTooLong`, `OutOfMemory`, `DeviceFailed`.
        """
        mixed = np.random.SeedSequence((params.seed, chunk.index)).generate_state(1)
        request = T3Request(
            text_tokens=self._frontend.tokenize(chunk.text),
            voice=voice,
            params=params,
            seed=int(mixed[0]),
            max_tokens=self._frontend.max_tokens(chunk.text),
        )
        ahead = SLICES_AHEAD * params.audio_tokens_per_slice
        lengths = slice_lengths(params.audio_tokens_per_slice, self._tuning, chunk.index)
        tokens: list[int] = []
        length = next(lengths)
        with translate_device_errors():
            async with aclosing(self._t3_loop.generate(request, ahead)) as steps:
                async for step in steps:
                    if step.token is not None:
                        tokens.append(step.token)
                    if step.finish_reason is FinishReason.LENGTH:
                        self.runaways += 1
                        log.warning("a text chunk of %d characters was cut", len(chunk.text))
                    if step.finish_reason or len(tokens) == length:
                        yield SpeechSlice(tokens, last=bool(step.finish_reason))
                        tokens, length = [], next(lengths)

    def new_decoder(self, voice: ChatterboxVoice, params: SynthesisParams) -> "_Decoder":
        return _Decoder(self._new_stream(voice.s3gen, params), self._s3gen_loop, self._alone)

    def _alone(self) -> AbstractContextManager[None]:
        """For whoever has heard nothing yet, on a CPU, which both stages share: T3 stands aside.

        That takes nothing from the others: S3Gen has enough to do for all cores.
        """
        return nullcontext() if self._on_gpu else self._t3_loop.paused()

    def new_watermark(self) -> Watermark | None:
        return StreamingWatermark(self._mark) if self._mark else None

    async def warm_up(self) -> None:
        """Run both stages in every shape. What cannot be compiled or recorded is left as it is, and
        `notice` says why.
        """
        notices: list[str] = []
        while setback := await self._setback():
            notices.append(setback.told)
            self.notice = "; ".join(notices)
            log.warning(setback.told)
            await self._dismantle()
            gc.collect()  # the traceback was the last to hold what is in the way on a full GPU
            self._assemble(setback.instead)
        await asyncio.to_thread(self._forget_what_is_done)

    async def _setback(self) -> _Setback | None:
        """Run the hot path. Raises where nothing is left that it could do without."""
        try:
            await self._run_hot_path()
        except GraphCaptureError as failed:
            log.debug("while recording", exc_info=True)
            told = f"not recorded, speech takes longer: {_root(failed.args[0])}"
            return _Setback(told, replace(self._means, new_capturer=lambda priority: EAGER))
        except Exception as error:  # a compiler's errors have no common type
            if not self.compiled:
                raise
            log.debug("while compiling", exc_info=True)
            told = f"not compiled, speech takes longer: {_root(error)}"
            return _Setback(told, replace(self._means, compiler=NO_COMPILER))
        return None

    async def _run_hot_path(self) -> None:
        """One stage after the other: see `compilation`."""
        await self._t3_loop.warm()
        await self._s3gen_loop.warm_up(self.default_voice.s3gen)

    def _forget_what_is_done(self) -> None:
        """On a CPU: most of the weights were read to be changed, most of the heap was for once."""
        self._models.let_files_go()
        if not self._on_gpu:
            trim_heap()

    async def free_memory(self) -> None:
        """What torch keeps of the device for its next allocations."""
        gc.collect()
        if self._on_gpu:
            with translate_device_errors():
                torch.cuda.empty_cache()

    async def close(self) -> None:
        if self._assembled:  # or it could not be, and that is what is being told
            await self._dismantle()
        await asyncio.to_thread(self._voice_thread.shutdown, cancel_futures=True)


def _nothing() -> None:
    pass


def _share_the_cpu() -> None:
    """With a GPU, a CPU has many small things to do, none of which may wait for long."""
    torch.set_num_threads(1)
    sys.setswitchinterval(0.0005)


def _each(*calls: Callable[[], None]) -> Callable[[], None]:
    def call_all() -> None:
        for call in calls:
            call()

    return call_all


def _root(error: BaseException) -> str:
    """One line on what an error came from; a compiler may put the whole program into others."""
    while inner := getattr(error, "inner_exception", None):
        error = inner
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


class _Decoder:
    """S3Gen's state of one job, and until when its audio lasts if it is heard at once."""

    def __init__(
        self,
        stream: StreamDecoder,
        loop: DecodeLoop,
        alone: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._stream = stream
        self._loop = loop
        self._alone = alone
        self._lasts_until = NOTHING_HEARD

    async def decode(self, piece: SpeechSlice) -> Samples:
        """Raises `OutOfMemory`, `DeviceFailed`."""
        due = self._lasts_until
        with translate_device_errors(), self._alone() if due == NOTHING_HEARD else nullcontext():
            audio = await self._loop.decode(Slice(self._stream, piece.tokens, piece.last, due))
        if len(audio):
            self._lasts_until = max(due, monotonic()) + len(audio) / SAMPLE_RATE
        return audio.numpy()
