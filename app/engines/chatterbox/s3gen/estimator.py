"""The flow's network: upstream's encoder and estimator, for any number of rows; called by `flow`.

    encode(encoder, x, mask)                       tokens, embedded → two frames of each
    EulerStep(estimator, guidance)(x, …)           one step of the way from noise to mel

As in upstream's `UpsampleConformerEncoder` and `ConditionalDecoder`, without masks of nothing but
ones; where rows of different lengths lie side by side, what is beyond a row's end is masked.
"""

import torch
import torch.nn.functional as F
from chatterbox.models.s3gen.decoder import ConditionalDecoder
from chatterbox.models.s3gen.matcha.transformer import BasicTransformerBlock
from chatterbox.models.s3gen.transformer.upsample_encoder import UpsampleConformerEncoder
from torch import Tensor, nn

from app.engines.chatterbox.conditioning.conditionals import FRAMES_PER_TOKEN
from app.engines.chatterbox.runtime.compilation import NO_COMPILER, Compiler
from app.engines.chatterbox.runtime.linear import fused_linears


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
        self.projections = fused_linears(block.attn1, "to_q", "to_k", "to_v")
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
