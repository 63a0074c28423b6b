"""The flow's estimator: a U-Net of transformer blocks that predicts the velocity of the mel.

As upstream's `ConditionalDecoder`, for any batch size and without all-ones masks.
"""

import torch
import torch.nn.functional as F
from chatterbox.models.s3gen.decoder import ConditionalDecoder
from chatterbox.models.s3gen.matcha.transformer import BasicTransformerBlock
from torch import Tensor, nn

from app.engines.chatterbox.runtime.compilation import NO_COMPILER, Compiler
from app.engines.chatterbox.runtime.linear import fused_linears, linear_gelu


class Estimator:
    def __init__(self, decoder: ConditionalDecoder, compiler: Compiler = NO_COMPILER) -> None:
        self.decoder = decoder
        self._down, self._middle, self._up = (
            [
                (UNetBlock(resnet, transformers, compiler), *resampling)
                for resnet, transformers, *resampling in blocks
            ]
            for blocks in (decoder.down_blocks, decoder.mid_blocks, decoder.up_blocks)
        )

    def embed_time(self, time: Tensor) -> Tensor:
        """float32 [rows] → float32 [rows, 1024]."""
        embedded: Tensor = self.decoder.time_mlp(self.decoder.time_embeddings(time))
        return embedded

    def __call__(self, x: Tensor, time_emb: Tensor, mask: Tensor | None) -> Tensor:
        """float32 [rows, 320, frames] at embedded times → float32 [rows, 80, frames].

        `mask`: bool [rows, frames], False for padding frames; or None.
        """
        net = self.decoder
        skips = []
        for block, downsample in self._down:
            skips.append(block(x, time_emb, mask))
            x = downsample(skips[-1])
        for (block,) in self._middle:
            x = block(x, time_emb, mask)
        for block, upsample in self._up:
            x = torch.cat([x, skips.pop()], dim=1)
            x = upsample(block(x, time_emb, mask))
        velocity: Tensor = net.final_proj(net.final_block(x, _no_mask(x)))
        return velocity


class UNetBlock:
    """A residual convolution, then transformer blocks."""

    def __init__(self, resnet: nn.Module, transformers: nn.ModuleList, compiler: Compiler) -> None:
        self._resnet = compiler.compile(resnet)
        self._transformers = [compiler.compile(TransformerBlock(block)) for block in transformers]

    def __call__(self, x: Tensor, time_emb: Tensor, mask: Tensor | None) -> Tensor:
        """float32 [rows, channels, frames], [rows, 1024] → float32 [rows, 256, frames]."""
        x = self._resnet(x, _no_mask(x), time_emb).transpose(1, 2).contiguous()
        for transformer in self._transformers:
            x = transformer(x, mask)
        return x.transpose(1, 2).contiguous()


class TransformerBlock(nn.Module):
    """Those parts of upstream's `BasicTransformerBlock` that this model uses."""

    def __init__(self, block: BasicTransformerBlock) -> None:
        super().__init__()
        self.attn_norm = block.norm1
        self.qkv = fused_linears(block.attn1, "to_q", "to_k", "to_v")
        self.heads = block.attn1.heads
        self.output = block.attn1.to_out[0]
        self.ff_norm = block.norm3
        self.ff_in, self.ff_out = block.ff.net[0].proj, block.ff.net[2]

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """float32 [rows, frames, width] → the same. `mask`: bool [rows, frames] or None."""
        normed = self.attn_norm(x)
        projected = torch.cat([project(normed) for project in self.qkv], dim=-1)
        query, key, value = projected.view(*projected.shape[:2], 3, self.heads, -1).unbind(2)
        attn_out = F.scaled_dot_product_attention(
            query.transpose(1, 2),
            key.transpose(1, 2),
            value.transpose(1, 2),
            attn_mask=None if mask is None else mask[:, None, None],
        )
        x = x + self.output(attn_out.transpose(1, 2).flatten(2))
        hidden: Tensor = x + self.ff_out(linear_gelu(self.ff_in, self.ff_norm(x)))
        return hidden


def _no_mask(x: Tensor) -> Tensor:
    return x.new_ones(1)
