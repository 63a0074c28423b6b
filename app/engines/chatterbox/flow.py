"""The flow: speech tokens and a voice enter, mel frames leave; called by `s3gen` for each slice.

Upstream's encoder makes two frames of each token. From noise, ten Euler steps then lead to the
mel, along the velocity that upstream's estimator gives. Here is the way through upstream's layers.
What upstream does around them is left out: masks of nothing but ones, whose check waits for the
device, and noise that nobody else can know.

A CPU takes one solve after the other, each as long as it is. A GPU takes several together, all
padded to the same of a few lengths, for which it has recordings.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise, product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from chatterbox.models.s3gen.decoder import ConditionalDecoder
from chatterbox.models.s3gen.flow import CausalMaskedDiffWithXvec
from chatterbox.models.s3gen.matcha.transformer import BasicTransformerBlock
from chatterbox.models.s3gen.transformer.upsample_encoder import UpsampleConformerEncoder
from torch import Tensor, nn

from app.engines.chatterbox.compilation import NO_COMPILER, Compiler
from app.engines.chatterbox.linear import together
from app.engines.chatterbox.recording import NO_RECORDER, Recorder
from app.engines.chatterbox.voices import S3GenReference

MEL_BANDS = 80
FRAMES_PER_TOKEN = 2
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
        recorder: Recorder = NO_RECORDER,
    ) -> None:
        self.step = EulerStep(flow.decoder.estimator, flow.decoder.inference_cfg_rate, compiler)
        self._flow = flow
        self._fixed = FixedSolver(self, recorder) if recorder.fixes_shapes else None

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

    def __init__(self, flow: Flow, recorder: Recorder) -> None:
        weight = flow._flow.encoder_proj.weight
        self._flow = flow
        self._prepare = recorder.by_shape(self._run_preparation)
        self._advance = recorder.by_shape(self._run_step)
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
                self._prepare.rehearse(rows, frames)
                self._done.zero_()
                self._advance.rehearse(rows, frames)

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
        speakers = self._in("speakers", rows, 192)
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
        speakers = self._in("speakers", rows, 192)
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


class EulerStep(nn.Module):
    """One step of the solver with classifier-free guidance.

    As in upstream's `ConditionalDecoder.forward` and `ConditionalCFM.solve_euler`.
    """

    def __init__(
        self,
        estimator: ConditionalDecoder,
        guidance: float,
        compiler: Compiler = NO_COMPILER,
    ) -> None:
        super().__init__()
        self.estimator = estimator
        self.guidance = guidance
        self._down, self._middle, self._up = (
            [
                (Stage(resnet, transformers, compiler), *then)
                for resnet, transformers, *then in stages
            ]
            for stages in (estimator.down_blocks, estimator.mid_blocks, estimator.up_blocks)
        )

    def forward(
        self, x: Tensor, context: Tensor, start: Tensor, stop: Tensor, mask: Tensor | None
    ) -> Tensor:
        """The mel, float32 [rows, 80, frames], at time `stop`, from `x` at `start`: float32 [].

        `context`: float32 [2·rows, 240, frames]. `mask`: bool [2·rows, frames], False for frames
        that nobody must hear of; or None.
        """
        rows = torch.cat([x.repeat(2, 1, 1), context], dim=1)
        guided, free = self._velocity(rows, start.expand(len(rows)), mask).chunk(2)
        return x + (stop - start) * ((1 + self.guidance) * guided - self.guidance * free)

    def _velocity(self, x: Tensor, time: Tensor, mask: Tensor | None) -> Tensor:
        net = self.estimator
        moment = net.time_mlp(net.time_embeddings(time))
        skips = []
        for stage, down in self._down:
            skips.append(stage(x, moment, mask))
            x = down(skips[-1])
        for (stage,) in self._middle:
            x = stage(x, moment, mask)
        for stage, up in self._up:
            x = torch.cat([x, skips.pop()], dim=1)
            x = up(stage(x, moment, mask))
        velocity: Tensor = net.final_proj(net.final_block(x, _unmasked(x)))
        return velocity


class Stage(nn.Module):
    """One of the estimator's blocks."""

    def __init__(self, resnet: nn.Module, transformers: nn.ModuleList, compiler: Compiler) -> None:
        super().__init__()
        self.resnet = compiler.compile(resnet)
        self.transformers = [compiler.compile(Transformer(block)) for block in transformers]

    def forward(self, x: Tensor, moment: Tensor, mask: Tensor | None) -> Tensor:
        """float32 [rows, channels, frames] → float32 [rows, 256, frames].

        `moment`: the time's embedding, float32 [rows, 1024]. `mask`: bool [rows, frames] or None.
        """
        x = self.resnet(x, _unmasked(x), moment).transpose(1, 2).contiguous()
        for transformer in self.transformers:
            x = transformer(x, mask)
        return x.transpose(1, 2).contiguous()


class Transformer(nn.Module):
    """Upstream's `BasicTransformerBlock`, of what this model uses of it."""

    def __init__(self, block: BasicTransformerBlock) -> None:
        super().__init__()
        self.norm = block.norm1
        self.projections = together(block.attn1, "to_q", "to_k", "to_v")
        self.heads = block.attn1.heads
        self.output = block.attn1.to_out[0]
        self.inner_norm = block.norm3
        self.widen, self.narrow = block.ff.net[0].proj, block.ff.net[2]

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """float32 [rows, frames, width] → the same. `mask`: bool [rows, frames] or None."""
        entered = self.norm(x)
        projected = torch.cat([project(entered) for project in self.projections], dim=-1)
        query, key, value = projected.view(*projected.shape[:2], 3, self.heads, -1).unbind(2)
        heard = F.scaled_dot_product_attention(
            query.transpose(1, 2),
            key.transpose(1, 2),
            value.transpose(1, 2),
            attn_mask=None if mask is None else mask[:, None, None],
        )
        x = x + self.output(heard.transpose(1, 2).flatten(2))
        hidden: Tensor = x + self.narrow(F.gelu(self.widen(self.inner_norm(x))))
        return hidden


def _unmasked(x: Tensor) -> Tensor:
    return x.new_ones(1)


def encode(encoder: UpsampleConformerEncoder, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Upstream's `UpsampleConformerEncoder.forward`.

    `x`: float32 [rows, n, width] → float32 [rows, 2·n, width]. `mask`: bool [rows, n], False where
    a row has ended; None: all are of this length.
    """
    seen = torch.ones((0, 0, 0), dtype=torch.bool)  # how these layers say: everything
    if mask is not None:
        seen = mask[:, None]
    x, positions, _ = encoder.embed(x, seen)
    if mask is not None:
        x = x * mask[..., None]  # the next layer looks ahead
    x = encoder.pre_lookahead_layer(x)
    for layer in encoder.encoders:
        x, *_ = layer(x, seen, positions)
    x, _ = encoder.up_layer(x.transpose(1, 2).contiguous(), 0)
    if mask is not None:
        seen = seen.repeat_interleave(FRAMES_PER_TOKEN, dim=2)
    x, positions, _ = encoder.up_embed(x.transpose(1, 2).contiguous(), seen)
    for layer in encoder.up_encoders:
        x, *_ = layer(x, seen, positions)
    encoded: Tensor = encoder.after_norm(x)
    return encoded


def step_times(device: torch.device) -> Tensor:
    """Where the steps begin and end, from 0 to 1 on a cosine: float32 [11]."""
    times: Tensor = 1 - torch.cos(torch.linspace(0, 1, STEPS + 1, device=device) * 0.5 * torch.pi)
    return times
