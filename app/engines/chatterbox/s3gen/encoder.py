"""Encode embedded speech tokens as two frames each; called by `flow`."""

import torch
from chatterbox.models.s3gen.transformer.upsample_encoder import UpsampleConformerEncoder
from torch import Tensor

from app.engines.chatterbox.s3gen.constants import FRAMES_PER_TOKEN


def encode(encoder: UpsampleConformerEncoder, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Upstream's `UpsampleConformerEncoder.forward` without its all-ones masks.

    float32 [rows, n, width] → float32 [rows, 2·n, width]. `mask`: bool [rows, n], False for
    padding; None if all rows have the same length.
    """
    attention_mask = torch.ones((0, 0, 0), dtype=torch.bool)  # these layers' form of no mask
    if mask is not None:
        attention_mask = mask[:, None]
    x, positions, _ = encoder.embed(x, attention_mask)
    if mask is not None:
        x = x * mask[..., None]  # the look-ahead layer must not see padding
    x = encoder.pre_lookahead_layer(x)
    for layer in encoder.encoders:
        x, *_ = layer(x, attention_mask, positions)
    x, _ = encoder.up_layer(x.transpose(1, 2).contiguous(), 0)
    if mask is not None:
        attention_mask = attention_mask.repeat_interleave(FRAMES_PER_TOKEN, dim=2)
    x, positions, _ = encoder.up_embed(x.transpose(1, 2).contiguous(), attention_mask)
    for layer in encoder.up_encoders:
        x, *_ = layer(x, attention_mask, positions)
    encoded: Tensor = encoder.after_norm(x)
    return encoded
