"""The flow: speech tokens and a voice enter, mel frames leave; called by `s3gen` for each slice.

Upstream's encoder makes two frames of each token. From noise, ten Euler steps then lead to the
mel, along the velocity that its estimator gives (`flow_network`). What upstream does around them is
left out: masks of nothing but ones, whose check waits for the device, and noise that nobody else
can know.

A CPU takes one solve after the other, each as long as it is. A GPU takes several together, all
padded to the same of a few lengths, for which it has recordings.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise, product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from chatterbox.models.s3gen.flow import CausalMaskedDiffWithXvec
from torch import Tensor

from app.engines.chatterbox.conditioning.conditionals import (
    FRAMES_PER_TOKEN,
    MEL_BANDS,
    SPEAKER_SIZE,
    S3GenReference,
)
from app.engines.chatterbox.runtime.compilation import NO_COMPILER, Compiler
from app.engines.chatterbox.runtime.cuda_graphs import EAGER, GraphCapturer
from app.engines.chatterbox.s3gen.estimator import EulerStep, encode

LONGEST = 2560
"""Frames: ten seconds of a voice, as many tokens as T3 says in one go, 1.2 seconds to spare."""

STEPS = 10

BUCKET = 128
"""Frames, 2.6 s of audio."""

TOGETHER = (8, 4, 2, 1)
"""How many solves a GPU can take at a time: more of them take it in proportion longer."""

MOST_FRAMES = 8 * 1024
"""Of all that are taken at a time: what lies between layers grows with them, and its square."""

OnStep = Callable[[], None]


class Solve(NamedTuple):
    """What a mel is made of.

    `tokens`: int64 [n], all below 6561. `noise`: float32 [2·(prompt + n), 80], standard normal.
    """

    tokens: Tensor
    reference: S3GenReference
    noise: Tensor

    @property
    def new_frames(self) -> int:
        return FRAMES_PER_TOKEN * len(self.tokens)


class Flow:
    """Upstream's flow matching model."""

    def __init__(
        self,
        flow: CausalMaskedDiffWithXvec,
        compiler: Compiler = NO_COMPILER,
        capturer: GraphCapturer = EAGER,
    ) -> None:
        self.step = EulerStep(flow.decoder.estimator, flow.decoder.inference_cfg_rate, compiler)
        self._flow = flow
        self._fixed = FixedSolver(self, capturer) if capturer.static_shapes else None

    @property
    def at_once(self) -> int:
        """How many solves are best made together."""
        return TOGETHER[0] if self._fixed else 1

    def warm_up(self) -> None:
        """Where shapes are few, run in each."""
        if self._fixed:
            self._fixed.warm_up()

    def solve(self, solves: Sequence[Solve], on_step: OnStep) -> list[Tensor]:
        """A mel for each, float32 [80, 2·n].

        `on_step` is called after each of the ten steps, and what it raises ends the solve. At most
        `at_once` of them.
        """
        if self._fixed:
            return self._fixed.solve(solves, on_step)
        return [self._solve(solve, on_step) for solve in solves]

    def _solve(self, solve: Solve, on_step: OnStep) -> Tensor:
        reference = solve.reference
        x = solve.noise.T[None].contiguous()
        tokens = torch.cat([reference.prompt_token, solve.tokens[None]], dim=1)
        given = F.pad(reference.prompt_feat, (0, 0, 0, solve.new_frames))
        context = self.context(tokens, reference.embedding, given)
        for start, stop in pairwise(step_times(x.device)):
            x = self.step(x, context, start, stop, None)
            on_step()
        return x[0, :, -solve.new_frames :]

    def context(
        self, tokens: Tensor, speakers: Tensor, given: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """What the estimator knows beside the noisy mel, float32 [2·rows, 240, 2·n].

        First for all rows: the encoded tokens, the speaker, the mel as far as it is given. Then,
        for the guidance: nothing. `tokens`: int64 [rows, n]. `speakers`: x-vectors, float32
        [rows, 192]. `given`: mel, float32 [rows, 2·n, 80]. `mask`: see `encode`.
        """
        flow = self._flow
        encoded = flow.encoder_proj(encode(flow.encoder, flow.input_embedding(tokens), mask))
        speaker = flow.spk_embed_affine_layer(F.normalize(speakers, dim=1))
        known = torch.cat([encoded, speaker[:, None].expand_as(encoded), given], dim=2)
        return torch.cat([known, torch.zeros_like(known)]).transpose(1, 2).contiguous()


class FixedSolver:
    """Solves in few shapes, (solves, frames), whose inputs and results always lie in one place."""

    def __init__(self, flow: Flow, capturer: GraphCapturer) -> None:
        weight = flow._flow.encoder_proj.weight
        self._flow = flow
        self._prepare = capturer.wrap(self._run_preparation)
        self._advance = capturer.wrap(self._run_step)
        self._memory = {
            name: torch.zeros(MOST_FRAMES * size, dtype=dtype, device=weight.device)
            for name, size, dtype in (
                ("tokens", 1, torch.int64),
                ("speakers", 1, torch.float32),
                ("given", MEL_BANDS, torch.float32),
                ("x", MEL_BANDS, torch.float32),
                ("context", 2 * 3 * MEL_BANDS, torch.float32),
            )
        }
        self._frames = torch.zeros(TOGETHER[0], dtype=torch.int64, device=weight.device)
        self._done = torch.zeros((), dtype=torch.int64, device=weight.device)  # steps
        self._times = step_times(weight.device)

    def warm_up(self) -> None:
        """Run in every shape."""
        self._frames.fill_(LONGEST)
        for rows, frames in product(TOGETHER, range(LONGEST, 0, -BUCKET)):
            if rows * frames <= MOST_FRAMES:
                self._prepare.capture(rows, frames)
                self._done.zero_()
                self._advance.capture(rows, frames)

    def solve(self, solves: Sequence[Solve], on_step: OnStep) -> list[Tensor]:
        """As `Flow.solve`."""
        frames = max(len(solve.noise) for solve in solves)
        frames += -frames % BUCKET
        rows = min(size for size in TOGETHER if size >= len(solves))
        if rows * frames > MOST_FRAMES and rows > 1:
            half = len(solves) // 2
            return self.solve(solves[:half], on_step) + self.solve(solves[half:], on_step)
        self._fill(solves, rows, frames)
        self.encode(rows, frames)
        for _ in range(STEPS):
            self._advance(rows, frames)
            on_step()
        x = self._in("x", rows, MEL_BANDS, frames)
        ends = [len(solve.noise) for solve in solves]
        return [
            x[row, :, end - solve.new_frames : end].clone()
            for row, (solve, end) in enumerate(zip(solves, ends, strict=True))
        ]

    def encode(self, rows: int, frames: int) -> None:
        """Turn what was filled in into the estimator's context."""
        self._prepare(rows, frames)

    def _in(self, name: str, *shape: int) -> Tensor:
        size = torch.Size(shape).numel()
        return self._memory[name][:size].view(shape)

    def _fill(self, solves: Sequence[Solve], rows: int, frames: int) -> None:
        tokens = self._in("tokens", rows, frames // FRAMES_PER_TOKEN)
        speakers = self._in("speakers", rows, SPEAKER_SIZE)
        given = self._in("given", rows, frames, MEL_BANDS).zero_()
        x = self._in("x", rows, MEL_BANDS, frames).zero_()
        for row, (new, reference, noise) in enumerate(solves):
            prompt = reference.prompt_token.shape[1]
            tokens[row, :prompt] = reference.prompt_token[0]
            tokens[row, prompt : prompt + len(new)] = new
            speakers[row] = reference.embedding[0]
            given[row, : reference.prompt_feat.shape[1]] = reference.prompt_feat[0]
            x[row, :, : len(noise)] = noise.T
        ends = [len(solve.noise) for solve in solves]
        ends += [frames] * (rows - len(solves))
        self._frames[:rows] = torch.tensor(ends)
        self._done.zero_()

    def _run_preparation(self, rows: int, frames: int) -> Tensor:
        tokens = self._in("tokens", rows, frames // FRAMES_PER_TOKEN)
        places = torch.arange(tokens.shape[1], device=tokens.device)
        mask = places < self._frames[:rows, None] // FRAMES_PER_TOKEN
        speakers = self._in("speakers", rows, SPEAKER_SIZE)
        given = self._in("given", rows, frames, MEL_BANDS)
        context = self._flow.context(tokens, speakers, given, mask)
        return self._in("context", *context.shape).copy_(context)

    def _run_step(self, rows: int, frames: int) -> Tensor:
        x = self._in("x", rows, MEL_BANDS, frames)
        context = self._in("context", 2 * rows, 3 * MEL_BANDS, frames)
        places = torch.arange(frames, device=x.device)
        mask = (places < self._frames[:rows, None]).repeat(2, 1)
        start, stop = self._times.take(self._done), self._times.take(self._done + 1)
        x.copy_(self._flow.step(x, context, start, stop, mask))
        self._done += 1
        return x


def step_times(device: torch.device) -> Tensor:
    """Where the steps begin and end, from 0 to 1 on a cosine: float32 [11]."""
    times: Tensor = 1 - torch.cos(torch.linspace(0, 1, STEPS + 1, device=device) * 0.5 * torch.pi)
    return times
