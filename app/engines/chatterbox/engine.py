"""The Chatterbox engine: T3 and S3Gen behind the protocol of `engines.base`.

Text chunks go to T3's step loop, which has a thread of its own and advances all jobs together;
slices go to S3Gen's thread, one at a time. What these two threads call at every step is compiled,
or, where that fails, left as it is. Everything in here is glue: what the models do is in the
modules beside this one.
"""

import asyncio
import gc
import logging
import threading
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, aclosing, nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from app.engines.base import EngineConfig, Samples, SpeechSlice, TextChunk, Watermark
from app.engines.chatterbox.compilation import NO_COMPILER, Compiler, TorchCompiler
from app.engines.chatterbox.device_faults import device_faults
from app.engines.chatterbox.linear import knows_onednn
from app.engines.chatterbox.loading import load
from app.engines.chatterbox.s3gen import S3Gen, StreamDecoder
from app.engines.chatterbox.slices import slice_lengths
from app.engines.chatterbox.step_loop import StepLoop
from app.engines.chatterbox.t3 import Ending, T3Batch, T3Request, max_tokens, tokenize
from app.engines.chatterbox.voices import ChatterboxVoice, VoiceCache
from app.engines.chatterbox.watermark import StreamingWatermark, load_watermarker
from app.engines.threads import run_to_its_end
from app.errors import StartupError
from app.messages import SAMPLE_RATE, SynthesisParams

log = logging.getLogger(__name__)

SLICES_AHEAD = 2
"""How far T3 may be in front of S3Gen, in slices, before a job stands aside."""

VOICE_CACHE = ".voices"


class ChatterboxEngine:
    """Resemble AI's Chatterbox, English, from the weights in `config.model_path`."""

    name = "chatterbox"
    sample_rate = SAMPLE_RATE
    clones_voices = True

    def __init__(self, config: EngineConfig) -> None:
        self.notice: str | None = None
        self.runaways = 0
        self._solves = 0
        self._slots = config.slots
        self._mark = load_watermarker() if config.watermark else None
        folder = Path(config.model_path)
        self._tuning = config.tuning
        self._models = load(
            folder,
            config.device,
            self._tuning.t3_dtype,
            packed=not config.torch_compile and knows_onednn(config.device),
        )
        if self._models.default_voice is None:
            raise StartupError(f"{folder / 'conds.pt'} is missing: it holds the default voice")
        self.default_voice = self._cut(self._models.default_voice)
        self._voices = VoiceCache(folder / VOICE_CACHE, self._models)
        self._voice_thread = ThreadPoolExecutor(1, "voices")
        self._assemble(TorchCompiler(self._models.device) if config.torch_compile else NO_COMPILER)

    def _assemble(self, compiler: Compiler) -> None:
        """The hot path: both stages and the threads that they stay on."""
        self.compiled = compiler is not NO_COMPILER
        batch = T3Batch(self._models.t3, self._slots, compiler=compiler)
        self._t3 = StepLoop(batch, compiler.adopt_thread)
        self._s3gen = S3Gen.of(self._models.s3gen, compiler)
        self._s3gen_thread = ThreadPoolExecutor(1, "s3gen", compiler.adopt_thread)

    async def _dismantle(self) -> None:
        await asyncio.to_thread(self._t3.close)
        await asyncio.to_thread(self._s3gen_thread.shutdown, cancel_futures=True)
        del self._t3, self._s3gen

    @property
    def steps(self) -> int:
        """T3's steps and the flow's."""
        return self._t3.steps + self._solves

    async def prepare_voice(self, samples: Samples, rate: int) -> ChatterboxVoice:
        """Running streams go on meanwhile, on the other threads."""
        prepare = partial(self._voices.voice, samples, rate)
        with device_faults():
            return self._cut(await run_to_its_end(self._voice_thread, prepare))

    def _cut(self, voice: ChatterboxVoice) -> ChatterboxVoice:
        return voice.with_prompt_of(self._tuning.voice_prompt_seconds)

    async def speech_tokens(
        self, chunk: TextChunk, voice: ChatterboxVoice, params: SynthesisParams
    ) -> AsyncGenerator[SpeechSlice, None]:
        """Slices of int64 [n] on the models' device; n is as `slice_lengths` says but at the end.

        A chunk that takes implausibly many tokens is cut, which the log says.
        """
        mixed = np.random.SeedSequence((params.seed, chunk.index)).generate_state(1)
        request = T3Request(
            text_tokens=tokenize(self._models.tokenizer, chunk.text),
            voice=voice,
            params=params,
            seed=int(mixed[0]),
            max_tokens=max_tokens(chunk.text),
        )
        ahead = SLICES_AHEAD * params.audio_tokens_per_slice
        lengths = slice_lengths(params.audio_tokens_per_slice, self._tuning, chunk.index)
        tokens: list[int] = []
        index, length = 0, next(lengths)
        with device_faults():
            async with aclosing(self._t3.speak(request, ahead)) as steps:
                async for step in steps:
                    if step.token is not None:
                        tokens.append(step.token)
                    if step.ending is Ending.CUT:
                        self.runaways += 1
                        log.warning("a text chunk of %d characters was cut", len(chunk.text))
                    if step.ending or len(tokens) == length:
                        yield SpeechSlice(self._on_device(tokens), index, last=bool(step.ending))
                        tokens, index, length = [], index + 1, next(lengths)

    def new_decoder(self, voice: ChatterboxVoice, params: SynthesisParams) -> "_Decoder":
        return _Decoder(self, StreamDecoder(self._s3gen, voice.s3gen, params))

    def to_host(self, audio: Tensor) -> Samples:
        with device_faults():
            return audio.cpu().numpy()

    def new_watermark(self) -> Watermark | None:
        return StreamingWatermark(self._mark) if self._mark else None

    async def warm_up(self) -> None:
        """Run both stages in every shape. If they cannot be compiled, `notice` says why."""
        try:
            await self._run_hot_path()
            return
        except Exception as error:  # a compiler's errors have no common type
            if not self.compiled:
                raise
            self.notice = f"not compiled, speech takes longer: {_root(error)}"
            log.warning(self.notice)
            log.debug("while compiling", exc_info=True)
        await self._dismantle()
        gc.collect()  # the traceback was the last to hold on to what is in the way on a full GPU
        self._assemble(NO_COMPILER)
        await self._run_hot_path()

    async def _run_hot_path(self) -> None:
        """One stage after the other: see `compilation`."""
        await self._t3.warm()
        warm_up = partial(self._s3gen.warm_up, self.default_voice.s3gen)
        await run_to_its_end(self._s3gen_thread, warm_up)

    async def free_memory(self) -> None:
        """What torch keeps of the device for its next allocations."""
        gc.collect()
        if self._models.device.type == "cuda":
            with device_faults():
                torch.cuda.empty_cache()

    async def close(self) -> None:
        await self._dismantle()
        await asyncio.to_thread(self._voice_thread.shutdown, cancel_futures=True)

    async def decode(self, stream: StreamDecoder, piece: SpeechSlice, first: bool) -> Tensor:
        """`piece` on S3Gen's thread, the `first` of its job or not.

        Cancelled, it ends at the next step of the flow.
        """
        unwanted = threading.Event()

        def on_step() -> None:
            self._solves += 1
            if unwanted.is_set():
                raise _Unwanted

        def solve() -> Tensor:
            try:
                return stream.decode(piece.tokens, piece.last, on_step)
            except _Unwanted:
                return torch.empty(0)  # for nobody

        with device_faults(), self._undisturbed(first):
            return await run_to_its_end(self._s3gen_thread, solve, unwanted.set)

    def _undisturbed(self, first: bool) -> AbstractContextManager[None]:
        """On a CPU, which both stages share, T3 stands aside while somebody has heard nothing yet.

        That takes nothing from the others: S3Gen has enough to do for all cores.
        """
        on_cpu = self._models.device.type == "cpu"
        return self._t3.paused() if first and on_cpu else nullcontext()

    def _on_device(self, tokens: list[int]) -> Tensor:
        return torch.tensor(tokens, dtype=torch.int64, device=self._models.device)


class _Unwanted(Exception):
    pass


def _root(error: BaseException) -> str:
    """One line on what an error came from; a compiler may put the whole program into others."""
    while inner := getattr(error, "inner_exception", None):
        error = inner
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


class _Decoder:
    """S3Gen's state of one job."""

    def __init__(self, engine: ChatterboxEngine, stream: StreamDecoder) -> None:
        self._engine = engine
        self._stream = stream
        self._first = True

    async def decode(self, piece: SpeechSlice) -> Tensor:
        audio = await self._engine.decode(self._stream, piece, self._first)
        self._first = False
        return audio
