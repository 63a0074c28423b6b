"""The flow: speech tokens and a voice enter, mel frames leave; called by `s3gen` for each slice.

Upstream's encoder makes two frames of each token. From noise, ten Euler steps then lead to the
mel, along the velocity that upstream's estimator gives. Here is the way through upstream's layers.
What upstream does around them is left out: masks of nothing but ones, whose check waits for the
device, and noise that nobody else can know.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from chatterbox.models.s3gen.decoder import ConditionalDecoder
from chatterbox.models.s3gen.flow import CausalMaskedDiffWithXvec
from chatterbox.models.s3gen.transformer.upsample_encoder import UpsampleConformerEncoder
from torch import Tensor, nn

from app.engines.chatterbox.compilation import NO_COMPILER, Compiler
from app.engines.chatterbox.voices import S3GenReference

MEL_BANDS = 80
FRAMES_PER_TOKEN = 2
LONGEST = FRAMES_PER_TOKEN * (250 + 1000)
"""Frames: ten seconds of a voice and as many tokens as T3 says in one go."""

STEPS = 10

OnStep = Callable[[], None]


class Flow:
    """Upstream's flow matching model, without state.

    Its step sees frames in multiples of the compiler's bucket only, the last of which may be
    masked.
    """

    def __init__(self, flow: CausalMaskedDiffWithXvec, compiler: Compiler = NO_COMPILER) -> None:
        step = EulerStep(flow.decoder.estimator, flow.decoder.inference_cfg_rate)
        self.step = compiler.bucketed(step)
        self._flow = flow
        self._bucket = compiler.bucket
        self._rehearsals = compiler.rehearsals

    def warm_up(self) -> None:
        """Run the step in every length, if they are few; otherwise one graph fits them all."""
        if self._bucket == 1:
            return
        weight = self._flow.encoder_proj.weight
        start, stop = step_times(weight.device)[:2]
        for frames in range(self._bucket, LONGEST + self._bucket, self._bucket):
            x = weight.new_zeros(1, MEL_BANDS, frames)
            context = weight.new_zeros(2, 3 * MEL_BANDS, frames)
            for _ in range(self._rehearsals):
                self.step(x, context, start, stop, weight.new_zeros(2, 1, frames))

    def solve(
        self, tokens: Tensor, reference: S3GenReference, noise: Tensor, on_step: OnStep
    ) -> Tensor:
        """Mel, float32 [80, 2·n], for `tokens`, int64 [n], all below 6561.

        `noise`, float32 [2·(prompt + n), 80], is standard normal. `on_step` is called after each
        of the ten steps, and what it raises ends the solve.
        """
        x = noise.T[None].contiguous()
        context = self._context(tokens, reference)
        frames = x.shape[2]
        padding = (0, -frames % self._bucket)
        bias = None
        if self._bucket > 1:
            bias = F.pad(x.new_zeros(2, 1, frames), padding, value=float("-inf"))
            x, context = F.pad(x, padding), F.pad(context, padding)
        for start, stop in pairwise(step_times(x.device)):
            x = self.step(x, context, start, stop, bias)
            on_step()
        return x[0, :, frames - FRAMES_PER_TOKEN * len(tokens) : frames]

    def _context(self, tokens: Tensor, reference: S3GenReference) -> Tensor:
        """What the estimator knows beside the noisy mel, float32 [2, 240, frames].

        Row 0: the encoded tokens, the speaker, the mel as far as it is given. Row 1, for the
        guidance: nothing.
        """
        flow = self._flow
        spoken = torch.cat([reference.prompt_token, tokens[None]], dim=1)
        encoded = flow.encoder_proj(encode(flow.encoder, flow.input_embedding(spoken)))
        speaker = flow.spk_embed_affine_layer(F.normalize(reference.embedding, dim=1))
        prompt = reference.prompt_feat
        given = F.pad(prompt, (0, 0, 0, encoded.shape[1] - prompt.shape[1]))
        known = torch.cat([encoded, speaker[:, None].expand_as(encoded), given], dim=2)
        return torch.cat([known, torch.zeros_like(known)]).transpose(1, 2).contiguous()


class EulerStep(nn.Module):
    """One step of the solver with classifier-free guidance, in one graph.

    As in upstream's `ConditionalDecoder.forward` and `ConditionalCFM.solve_euler`.
    """

    def __init__(self, estimator: ConditionalDecoder, guidance: float) -> None:
        super().__init__()
        self.estimator = estimator
        self.guidance = guidance

    def forward(
        self, x: Tensor, context: Tensor, start: Tensor, stop: Tensor, bias: Tensor | None
    ) -> Tensor:
        """The mel, float32 [1, 80, frames], at time `stop`, from `x` at `start`, float32 [] each.

        `context`: float32 [2, 240, frames]. `bias` is added to the attention's scores: float32
        [2, 1, frames], or None for zeros.
        """
        rows = torch.cat([x.expand(2, -1, -1), context], dim=1)
        guided, free = self._velocity(rows, start.expand(2), bias).chunk(2)
        return x + (stop - start) * ((1 + self.guidance) * guided - self.guidance * free)

    def _velocity(self, x: Tensor, time: Tensor, bias: Tensor | None) -> Tensor:
        net = self.estimator
        moment = net.time_mlp(net.time_embeddings(time))
        skips = []
        for resnet, transformers, down in net.down_blocks:
            skips.append(_block(resnet, transformers, x, moment, bias))
            x = down(skips[-1])
        for resnet, transformers in net.mid_blocks:
            x = _block(resnet, transformers, x, moment, bias)
        for resnet, transformers, up in net.up_blocks:
            x = torch.cat([x, skips.pop()], dim=1)
            x = up(_block(resnet, transformers, x, moment, bias))
        velocity: Tensor = net.final_proj(net.final_block(x, _unmasked(x)))
        return velocity


def _block(
    resnet: nn.Module, transformers: nn.ModuleList, x: Tensor, moment: Tensor, bias: Tensor | None
) -> Tensor:
    x = resnet(x, _unmasked(x), moment).transpose(1, 2).contiguous()
    for transformer in transformers:
        x = transformer(x, attention_mask=bias)
    return x.transpose(1, 2).contiguous()


def _unmasked(x: Tensor) -> Tensor:
    return x.new_ones(1)


def encode(encoder: UpsampleConformerEncoder, x: Tensor) -> Tensor:
    """Upstream's `UpsampleConformerEncoder.forward` for one utterance without padding.

    `x`: float32 [1, n, width] → float32 [1, 2·n, width].
    """
    no_mask = torch.ones((0, 0, 0), dtype=torch.bool)  # how these layers say: everything
    x, positions, _ = encoder.embed(x, no_mask)
    x = encoder.pre_lookahead_layer(x)
    for layer in encoder.encoders:
        x, *_ = layer(x, no_mask, positions)
    x, _ = encoder.up_layer(x.transpose(1, 2).contiguous(), 0)
    x, positions, _ = encoder.up_embed(x.transpose(1, 2).contiguous(), no_mask)
    for layer in encoder.up_encoders:
        x, *_ = layer(x, no_mask, positions)
    encoded: Tensor = encoder.after_norm(x)
    return encoded


def step_times(device: torch.device) -> Tensor:
    """Where the steps begin and end, from 0 to 1 on a cosine: float32 [11]."""
    times: Tensor = 1 - torch.cos(torch.linspace(0, 1, STEPS + 1, device=device) * 0.5 * torch.pi)
    return times
