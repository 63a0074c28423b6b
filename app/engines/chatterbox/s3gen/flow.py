"""Compute mel frames from speech tokens and a voice's prompt; called for each slice.

`Flow` solves one input after another, each at its own length, as is best on a CPU.
`StaticShapeFlow` pads several to one of a few lengths, for which it has captured CUDA graphs.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise, product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from chatterbox.models.s3gen.flow import CausalMaskedDiffWithXvec
from torch import Tensor

from app.engines.chatterbox.conditioning.conditionals import S3GenPrompt
from app.engines.chatterbox.runtime.compilation import NO_COMPILER, Compiler
from app.engines.chatterbox.runtime.cuda_graphs import GraphCapturer
from app.engines.chatterbox.s3gen.constants import FRAMES_PER_TOKEN, MEL_BANDS, SPEAKER_DIM
from app.engines.chatterbox.s3gen.encoder import encode
from app.engines.chatterbox.s3gen.solvers import SOLVERS, Solver
from app.engines.chatterbox.variants import FlowSpec

MAX_FRAMES = 2560
"""Frames of one input: a prompt of ten seconds, 1,000 tokens, and 1.2 seconds to spare."""

BUCKET_FRAMES = 128
"""Lengths are padded to multiples of it: 2.6 s of audio."""

BATCH_BUCKETS = (8, 4, 2, 1)
"""Batch sizes on a GPU; larger ones take proportionally longer."""

MAX_BATCH_FRAMES = 8 * 1024
"""Frames of a whole batch: activations grow with them, and with their square."""

OnStep = Callable[[], None]


class FlowInput(NamedTuple):
    """One mel to be solved.

    `tokens`: int64 [n], all below 6561. `noise`: float32 [2·(prompt + n), 80], standard normal.
    """

    tokens: Tensor
    prompt: S3GenPrompt
    noise: Tensor

    @property
    def new_frames(self) -> int:
        return FRAMES_PER_TOKEN * len(self.tokens)


class Flow:
    """Upstream's flow-matching model, for one input at a time."""

    max_batch_size = 1

    def __init__(
        self, flow: CausalMaskedDiffWithXvec, spec: FlowSpec, compiler: Compiler = NO_COMPILER
    ) -> None:
        self.solver: Solver = SOLVERS[spec.solver](spec, flow.decoder, compiler)
        self._flow = flow

    def warm_up(self) -> None:
        """Nothing to do where shapes vary."""

    def solve(self, inputs: Sequence[FlowInput], on_step: OnStep) -> list[Tensor]:
        """Return the mel of the new frames of each input, float32 [80, 2·n].

        `on_step` is called after each of the solver's steps, and what it raises ends the solve.
        """
        return [self._solve_one(item, on_step) for item in inputs]

    def _solve_one(self, item: FlowInput, on_step: OnStep) -> Tensor:
        x = item.noise.T[None].contiguous()
        tokens = torch.cat([item.prompt.prompt_token, item.tokens[None]], dim=1)
        prompt_mel = F.pad(item.prompt.prompt_feat, (0, 0, 0, item.new_frames))
        conditioning = self.conditioning(tokens, item.prompt.embedding, prompt_mel)
        for start, stop in pairwise(self.solver.times):
            x = self.solver.step(x, conditioning, start, stop, None)
            on_step()
        return x[0, :, -item.new_frames :]

    def conditioning(
        self, tokens: Tensor, speakers: Tensor, prompt_mel: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """Encoded tokens, speaker and prompt mel, as the solver expands them for the estimator.

        `tokens`: int64 [inputs, n]. `speakers`: x-vectors, float32 [inputs, 192]. `prompt_mel`:
        float32 [inputs, 2·n, 80], zero after the prompt. `mask`: bool [inputs, n], see `encode`.
        Returns float32 [rows, 240, 2·n].
        """
        flow = self._flow
        encoded = flow.encoder_proj(encode(flow.encoder, flow.input_embedding(tokens), mask))
        speaker = flow.spk_embed_affine_layer(F.normalize(speakers, dim=1))
        known = torch.cat([encoded, speaker[:, None].expand_as(encoded), prompt_mel], dim=2)
        return self.solver.expand(known.transpose(1, 2))


class StaticShapeFlow(Flow):
    """Solves batches in few shapes (batch size, frames), as CUDA graphs of fixed buffers."""

    max_batch_size = BATCH_BUCKETS[0]

    def __init__(
        self,
        flow: CausalMaskedDiffWithXvec,
        spec: FlowSpec,
        compiler: Compiler,
        capturer: GraphCapturer,
    ) -> None:
        super().__init__(flow, spec, compiler)
        device = self.solver.times.device
        self._encode = capturer.wrap(self._run_encoder)
        self._step = capturer.wrap(self._run_step)
        self._buffers = {
            name: torch.zeros(MAX_BATCH_FRAMES * size, dtype=dtype, device=device)
            for name, size, dtype in (
                ("tokens", 1, torch.int64),
                ("speakers", 1, torch.float32),
                ("prompt_mel", MEL_BANDS, torch.float32),
                ("x", MEL_BANDS, torch.float32),
                ("conditioning", self.solver.rows_per_input * 3 * MEL_BANDS, torch.float32),
            )
        }
        self._lengths = torch.zeros(self.max_batch_size, dtype=torch.int64, device=device)  # frames
        self._steps_done = torch.zeros((), dtype=torch.int64, device=device)

    def warm_up(self) -> None:
        self._lengths.fill_(MAX_FRAMES)
        for rows, frames in product(BATCH_BUCKETS, range(MAX_FRAMES, 0, -BUCKET_FRAMES)):
            if rows * frames <= MAX_BATCH_FRAMES:
                self._encode.capture(rows, frames)
                self._steps_done.zero_()
                self._step.capture(rows, frames)

    def solve(self, inputs: Sequence[FlowInput], on_step: OnStep) -> list[Tensor]:
        frames = max(len(item.noise) for item in inputs)
        frames += -frames % BUCKET_FRAMES
        rows = min(size for size in BATCH_BUCKETS if size >= len(inputs))
        if rows * frames > MAX_BATCH_FRAMES and rows > 1:
            half = len(inputs) // 2
            return self.solve(inputs[:half], on_step) + self.solve(inputs[half:], on_step)
        self._copy_in(inputs, rows, frames)
        self.encode(rows, frames)
        for _ in pairwise(self.solver.times):
            self._step(rows, frames)
            on_step()
        x = self._buffer("x", rows, MEL_BANDS, frames)
        return [
            x[row, :, len(item.noise) - item.new_frames : len(item.noise)].clone()
            for row, item in enumerate(inputs)
        ]

    def encode(self, rows: int, frames: int) -> None:
        """Compute the conditioning of the inputs that were copied in."""
        self._encode(rows, frames)

    def _buffer(self, name: str, *shape: int) -> Tensor:
        return self._buffers[name][: torch.Size(shape).numel()].view(shape)

    def _copy_in(self, inputs: Sequence[FlowInput], rows: int, frames: int) -> None:
        tokens = self._buffer("tokens", rows, frames // FRAMES_PER_TOKEN)
        speakers = self._buffer("speakers", rows, SPEAKER_DIM)
        prompt_mel = self._buffer("prompt_mel", rows, frames, MEL_BANDS).zero_()
        x = self._buffer("x", rows, MEL_BANDS, frames).zero_()
        for row, (new, prompt, noise) in enumerate(inputs):
            length = prompt.prompt_token.shape[1]
            tokens[row, :length] = prompt.prompt_token[0]
            tokens[row, length : length + len(new)] = new
            speakers[row] = prompt.embedding[0]
            prompt_mel[row, : prompt.prompt_feat.shape[1]] = prompt.prompt_feat[0]
            x[row, :, : len(noise)] = noise.T
        lengths = [len(item.noise) for item in inputs]
        lengths += [frames] * (rows - len(inputs))
        self._lengths[:rows] = torch.tensor(lengths)
        self._steps_done.zero_()

    def _run_encoder(self, rows: int, frames: int) -> Tensor:
        tokens = self._buffer("tokens", rows, frames // FRAMES_PER_TOKEN)
        speakers = self._buffer("speakers", rows, SPEAKER_DIM)
        prompt_mel = self._buffer("prompt_mel", rows, frames, MEL_BANDS)
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        mask = positions < self._lengths[:rows, None] // FRAMES_PER_TOKEN
        conditioning = self.conditioning(tokens, speakers, prompt_mel, mask)
        return self._buffer("conditioning", *conditioning.shape).copy_(conditioning)

    def _run_step(self, rows: int, frames: int) -> Tensor:
        x = self._buffer("x", rows, MEL_BANDS, frames)
        conditioning = self._buffer(
            "conditioning", self.solver.rows_per_input * rows, 3 * MEL_BANDS, frames
        )
        mask = torch.arange(frames, device=x.device) < self._lengths[:rows, None]
        times, done = self.solver.times, self._steps_done
        x.copy_(self.solver.step(x, conditioning, times.take(done), times.take(done + 1), mask))
        done += 1
        return x
