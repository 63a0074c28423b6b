"""S3Gen: streams' speech tokens enter, slice by slice, and audio leaves; called by `decode_loop`.

    s3gen = S3Gen.of(models.s3gen, compiler, capturer)         once a worker
    stream = StreamDecoder(s3gen, voice.s3gen, params)         one for each job
    solve = stream.solve_for(tokens)                           for each slice;
    [mel] = s3gen.flow.solve([solve])                          of several streams together
    audio = stream.extend(tokens, mel, last)

A slice is solved together with all of its text chunk that came before it, so that it fits on to
it, and only what is new is given out ("full"), or for itself ("zero"). All calls come from one
thread.
"""

from dataclasses import dataclass

import torch
from chatterbox.models.s3gen import S3GEN_SR
from chatterbox.models.s3gen import S3Gen as UpstreamS3Gen
from torch import Tensor

from app.core.params import SynthesisParams
from app.engines.chatterbox.conditioning.conditionals import (
    FRAMES_PER_TOKEN,
    MEL_BANDS,
    S3GenReference,
)
from app.engines.chatterbox.runtime.compilation import NO_COMPILER, Compiler
from app.engines.chatterbox.runtime.cuda_graphs import EAGER, GraphCapturer
from app.engines.chatterbox.s3gen.flow import Flow, OnStep, Solve
from app.engines.chatterbox.s3gen.noise import FrameNoise, Noise, Use
from app.engines.chatterbox.s3gen.vocoder import HELD_BACK, Vocoder, Waveform

LEAST_CONTEXT = -(-HELD_BACK // FRAMES_PER_TOKEN) + 3
"""Tokens: what may still change when more comes, and what the encoder looks ahead."""


@dataclass(frozen=True)
class S3Gen:
    """What all streams share. `fade_in`, float32 [960], is the gain at a text chunk's start."""

    flow: Flow
    vocoder: Vocoder
    fade_in: Tensor
    context_tokens: int

    @classmethod
    def of(
        cls,
        upstream: UpstreamS3Gen,
        compiler: Compiler = NO_COMPILER,
        capturer: GraphCapturer = EAGER,
        context_tokens: int = 0,
    ) -> "S3Gen":
        """`upstream` is changed in place: see `fold_weight_norm`.

        A slice is solved together with so many `context_tokens` before it, 0: all of its text
        chunk's.
        """
        return cls(
            Flow(upstream.flow, compiler, capturer),
            Vocoder(upstream.mel2wav, capturer),
            upstream.trim_fade,
            context_tokens,
        )

    @torch.inference_mode()
    def warm_up(self, reference: S3GenReference) -> None:
        """Run all of it, in every shape that has a recording of its own, so that no request
        waits.
        """
        self.flow.warm_up()
        self.vocoder.warm_up()
        stream = StreamDecoder(self, reference, SynthesisParams())
        for last in (False, False, True):
            stream.decode(reference.prompt_token.new_zeros(10), last)


def _go_on() -> None:
    pass


class StreamDecoder:
    """The audio of one job, at 24 kHz: 960 samples for every token of a text chunk.

    For each slice: `solve_for`, solved together with those of other streams, then `extend`. A
    chunk's sum is exact, a slice's is not: its end is held back until it is known what follows.
    """

    def __init__(self, s3gen: S3Gen, reference: S3GenReference, params: SynthesisParams) -> None:
        self._s3gen = s3gen
        self._reference = reference
        self._seed = params.seed
        self._slices_alone = params.chunk_overlap_method == "zero"
        self._fade = params.crossfade_duration_milliseconds * S3GEN_SR // 1000
        self._utterances = 0
        self._begun: _Utterance | None = None  # on the thread that solves it
        self._given = 0  # samples of this text chunk

    @torch.inference_mode()
    def decode(self, tokens: Tensor, last: bool, on_step: OnStep = _go_on) -> Tensor:
        """Both steps for this stream alone. `on_step`: see `Flow.solve`."""
        solve = self.solve_for(tokens)
        [mel] = self._s3gen.flow.solve([solve], on_step) if solve else [None]
        return self.extend(tokens, mel, last)

    def solve_for(self, tokens: Tensor) -> Solve | None:
        """What is to be solved for the slice of `tokens`, int64 [n], all below 6561; None if they
        are none.
        """
        return self._utterance.solve_for(tokens) if len(tokens) else None

    def extend(self, tokens: Tensor, mel: Tensor | None, last: bool) -> Tensor:
        """The audio that the slice adds, float32 [samples], on the device.

        `mel`: of its solve. `last` ends the text chunk. A call that raises changes nothing.
        """
        ends = last or self._slices_alone
        audio = self._utterance.extend(tokens, mel, ends)
        gain = self._s3gen.fade_in[self._given :][: len(audio)]
        audio[: len(gain)] *= gain
        self._given = 0 if last else self._given + len(audio)
        if ends:
            self._begun = None
        return audio

    @property
    def _utterance(self) -> "_Utterance":
        if self._begun is None:
            noise = Noise(self._seed, self._utterances, self._s3gen.fade_in.device)
            self._utterances += 1
            self._begun = _Utterance(self._s3gen, self._reference, noise, self._fade)
        return self._begun


class _Utterance:
    """What is solved together: a text chunk, or, with "zero", a slice."""

    def __init__(self, s3gen: S3Gen, reference: S3GenReference, noise: Noise, fade: int) -> None:
        self._reference = reference
        self._context = s3gen.context_tokens
        self._noise = FrameNoise(noise, Use.FLOW, MEL_BANDS)
        self._waveform = Waveform(s3gen.vocoder, noise, fade)
        self._tokens = reference.prompt_token[0, :0]
        self._mel = reference.prompt_feat[0, :0].T

    def solve_for(self, tokens: Tensor) -> Solve:
        known = self._tokens[self._forgotten :]
        prompt = FRAMES_PER_TOKEN * self._reference.prompt_token.shape[1]
        end = FRAMES_PER_TOKEN * (len(self._tokens) + len(tokens))
        noise = self._noise.until(prompt + end)
        begin = prompt + FRAMES_PER_TOKEN * self._forgotten
        return Solve(
            torch.cat([known, tokens]),
            self._reference,
            torch.cat([noise[:prompt], noise[begin:]]),
        )

    def extend(self, tokens: Tensor, mel: Tensor | None, last: bool) -> Tensor:
        """What `tokens`, int64 [n], add to the waveform: float32 [samples]."""
        if mel is None:
            mel = self._mel
        else:
            mel = torch.cat([self._mel[:, : FRAMES_PER_TOKEN * self._forgotten], mel], dim=1)
        if not mel.shape[1]:
            return torch.empty(0, device=mel.device)
        audio = self._waveform.extend(mel, last)
        self._tokens, self._mel = torch.cat([self._tokens, tokens]), mel
        return audio

    @property
    def _forgotten(self) -> int:
        """How many of the tokens so far are not solved again."""
        if not self._context:
            return 0
        return max(0, len(self._tokens) - max(self._context, LEAST_CONTEXT))
