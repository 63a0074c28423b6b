"""Decode the speech tokens of streams to audio with S3Gen, slice by slice; driven by `scheduler`.

    s3gen = S3Gen.of(models, compiler, capturer)               once per worker
    stream = StreamDecoder(s3gen, voice.s3gen, params)         once per job
    item = stream.prepare(tokens)                              for each slice;
    [mel] = s3gen.flow.solve([item], on_step)                  several streams in one batch
    audio = stream.commit(tokens, mel, last)

With overlap "full", a slice is solved together with all of its text chunk before it, so that it
continues it, and only new audio is returned; with "zero", alone. All calls are made on one thread.
"""

from dataclasses import dataclass

import torch
from chatterbox.models.s3gen import S3GEN_SR
from torch import Tensor

from app.core.params import SynthesisParams
from app.engines.chatterbox.checkpoint.models import Models
from app.engines.chatterbox.conditioning.conditionals import S3GenPrompt
from app.engines.chatterbox.runtime.compilation import NO_COMPILER, Compiler
from app.engines.chatterbox.runtime.cuda_graphs import EAGER, GraphCapturer
from app.engines.chatterbox.s3gen.constants import FRAMES_PER_TOKEN, MEL_BANDS, MIN_CONTEXT_TOKENS
from app.engines.chatterbox.s3gen.flow import Flow, FlowInput, OnStep, StaticShapeFlow
from app.engines.chatterbox.s3gen.noise import FrameNoise, Noise, NoiseStream
from app.engines.chatterbox.s3gen.vocoder import StaticShapeVocoder, Vocoder
from app.engines.chatterbox.s3gen.waveform import StreamingVocoder

MAX_CHUNKS = 2**20
"""A job has fewer text chunks; so each of their utterances has a number of its own, below 2³²."""


@dataclass(frozen=True)
class S3Gen:
    """The parts that all streams share.

    `fade_in`, float32 [960]: the gain at a text chunk's start. `context_tokens`: how many tokens
    before a slice are solved with it; 0: all of its text chunk's.
    """

    flow: Flow
    vocoder: Vocoder
    fade_in: Tensor
    context_tokens: int

    @classmethod
    def of(
        cls,
        models: Models,
        compiler: Compiler = NO_COMPILER,
        capturer: GraphCapturer = EAGER,
        context_tokens: int = 0,
    ) -> "S3Gen":
        """`models.s3gen` is changed in place: see `fold_weight_norm`."""
        upstream, spec = models.s3gen, models.spec.flow
        if capturer.static_shapes:
            flow: Flow = StaticShapeFlow(upstream.flow, spec, compiler, capturer)
            vocoder: Vocoder = StaticShapeVocoder(upstream.mel2wav, capturer)
        else:
            flow, vocoder = Flow(upstream.flow, spec, compiler), Vocoder(upstream.mel2wav)
        return cls(flow, vocoder, upstream.trim_fade, context_tokens)

    @torch.inference_mode()
    def warm_up(self, prompt: S3GenPrompt) -> None:
        self.flow.warm_up()
        self.vocoder.warm_up()
        stream = StreamDecoder(self, prompt, SynthesisParams())
        for last in (False, False, True):
            stream.decode(prompt.prompt_token.new_zeros(10), last)


class StreamDecoder:
    """The audio of one job, at 24 kHz: 960 samples for every token of a text chunk.

    For each slice call `prepare`, solve its result, then `commit`. The sum is exact for a chunk,
    not for a slice: a slice's end is held back until the next one is known.
    """

    def __init__(
        self, s3gen: S3Gen, prompt: S3GenPrompt, params: SynthesisParams, first_chunk: int = 0
    ) -> None:
        """`first_chunk`: index of the text chunk that it begins with."""
        self._s3gen = s3gen
        self._prompt = prompt
        self._seed = params.seed
        self._slice_is_utterance = params.chunk_overlap_method == "zero"
        self._fade = params.crossfade_duration_milliseconds * S3GEN_SR // 1000
        self._chunk = first_chunk
        self._utterances = 0  # of this text chunk
        self._current: _Utterance | None = None  # created on the scheduler's thread
        self._emitted = 0  # samples of this text chunk

    @torch.inference_mode()
    def decode(self, tokens: Tensor, last: bool, on_step: OnStep = lambda: None) -> Tensor:
        """Prepare, solve and commit for this stream alone. `on_step`: see `Flow.solve`."""
        item = self.prepare(tokens)
        [mel] = self._s3gen.flow.solve([item], on_step) if item else [None]
        return self.commit(tokens, mel, last)

    def prepare(self, tokens: Tensor) -> FlowInput | None:
        """The flow's input for a slice of `tokens`, int64 [n], all below 6561; None if n is 0."""
        return self._utterance.prepare(tokens) if len(tokens) else None

    def commit(self, tokens: Tensor, mel: Tensor | None, last: bool) -> Tensor:
        """The audio that the slice adds, float32 [samples], on the device.

        `mel`: the solution for `prepare(tokens)`. `last` ends the text chunk. A call that raises
        changes nothing.
        """
        ends = last or self._slice_is_utterance
        audio = self._utterance.commit(tokens, mel, ends)
        gain = self._s3gen.fade_in[self._emitted :][: len(audio)]
        audio[: len(gain)] *= gain
        self._emitted += len(audio)
        if ends:
            self._current = None
        if last:
            self._chunk, self._utterances, self._emitted = self._chunk + 1, 0, 0
        return audio

    @property
    def _utterance(self) -> "_Utterance":
        if self._current is None:
            utterance = self._chunk + self._utterances * MAX_CHUNKS
            noise = Noise(self._seed, utterance, self._s3gen.fade_in.device)
            self._utterances += 1
            self._current = _Utterance(self._s3gen, self._prompt, noise, self._fade)
        return self._current


class _Utterance:
    """Slices that are solved together: a text chunk or, with overlap "zero", one slice."""

    def __init__(self, s3gen: S3Gen, prompt: S3GenPrompt, noise: Noise, fade: int) -> None:
        self._prompt = prompt
        self._context = s3gen.context_tokens
        self._noise = FrameNoise(noise, NoiseStream.FLOW, MEL_BANDS)
        self._vocoder = StreamingVocoder(s3gen.vocoder, noise, fade)
        self._tokens = prompt.prompt_token[0, :0]
        self._mel = prompt.prompt_feat[0, :0].T

    def prepare(self, tokens: Tensor) -> FlowInput:
        prompt_frames = FRAMES_PER_TOKEN * self._prompt.prompt_token.shape[1]
        end = FRAMES_PER_TOKEN * (len(self._tokens) + len(tokens))
        noise = self._noise.take(prompt_frames + end)
        begin = prompt_frames + FRAMES_PER_TOKEN * self._num_fixed
        return FlowInput(
            torch.cat([self._tokens[self._num_fixed :], tokens]),
            self._prompt,
            torch.cat([noise[:prompt_frames], noise[begin:]]),
        )

    def commit(self, tokens: Tensor, mel: Tensor | None, last: bool) -> Tensor:
        if mel is None:
            mel = self._mel
        else:
            mel = torch.cat([self._mel[:, : FRAMES_PER_TOKEN * self._num_fixed], mel], dim=1)
        if not mel.shape[1]:
            return torch.empty(0, device=mel.device)
        audio = self._vocoder.extend(mel, last)
        self._tokens, self._mel = torch.cat([self._tokens, tokens]), mel
        return audio

    @property
    def _num_fixed(self) -> int:
        """How many of the tokens so far are not solved again."""
        if not self._context:
            return 0
        return max(0, len(self._tokens) - max(self._context, MIN_CONTEXT_TOKENS))
