"""Attention for the CPU: the flow's queries, keys and values enter, what was heard leaves.

Called by diffusers' `Attention`, of which the loader makes this the processor.
"""

from typing import Any

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor, nn

WORTHWHILE = 400
"""Frames. With fewer, torch's own way is as fast."""


class HeadByHead:
    """Head by head, both products by oneDNN: see `linear.PackedLinear`."""

    _usual = AttnProcessor2_0()  # type: ignore[no-untyped-call]

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """float32 [rows, frames, dim] → the same; everything is heard but what is masked."""
        rows, frames, _ = hidden_states.shape
        if attention_mask is not None or frames < WORTHWHILE:
            usual: Tensor = self._usual(attn, hidden_states, encoder_hidden_states, attention_mask)
            return usual

        def heads(x: Tensor) -> Tensor:
            """[rows·heads, frames, head_dim]"""
            return x.view(rows, frames, attn.heads, -1).transpose(1, 2).flatten(0, 1).contiguous()

        queries = heads(attn.to_q(hidden_states) * attn.scale)
        keys = heads(attn.to_k(hidden_states))
        values = heads(attn.to_v(hidden_states)).transpose(1, 2).contiguous()
        heard = [
            _product(_product(query, key).softmax(-1), value)
            for query, key, value in zip(queries, keys, values, strict=True)
        ]
        joined = torch.stack(heard).view(rows, attn.heads, frames, -1).transpose(1, 2).flatten(2)
        out: Tensor = attn.to_out[0](joined)
        return out


def _product(one: Tensor, other: Tensor) -> Tensor:
    """float32 [n, k] and [m, k] → [n, m]"""
    y: Tensor = torch.ops.mkldnn._linear_pointwise(one, other, None, "none", [], "")
    return y


def attend_head_by_head(estimator: nn.Module) -> None:
    """In all layers of the flow's estimator, in place."""
    for part in estimator.modules():
        if isinstance(part, Attention):
            part.set_processor(HeadByHead())  # type: ignore[arg-type]
