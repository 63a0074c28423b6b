"""The Llama backbone: upstream's layers, split at the attention, which reads a static KV cache."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from app.engines.chatterbox.runtime import kernels
from app.engines.chatterbox.runtime.compilation import Compiler
from app.engines.chatterbox.runtime.linear import Bfloat16Linear, Int8Linear, fused_linears
from app.engines.chatterbox.t3.backbone import AttentionInputs, Backbone, CachedLayer, KVRange


class LlamaBackbone(Backbone):
    """transformers' LlamaModel."""

    cosine: Tensor
    sine: Tensor

    def __init__(self, tfmr: Any, rows: int, max_positions: int, compiler: Compiler) -> None:
        super().__init__()
        in_bf16 = isinstance(tfmr.layers[0].self_attn.o_proj, Bfloat16Linear)
        self.cache_dtype = torch.bfloat16 if in_bf16 else torch.float32
        self.layers = nn.ModuleList(
            LlamaLayer(layer, rows, max_positions, self.cache_dtype, compiler)
            for layer in tfmr.layers
        )
        self.norm = tfmr.norm
        self._kernel_layers: tuple[kernels.LlamaWeights, ...] = ()
        if isinstance(tfmr.layers[0].self_attn.o_proj, Int8Linear):
            self._kernel_layers = tuple(
                kernel_weights(layer, cached.keys.numpy(), cached.values.numpy())
                for layer, cached in zip(tfmr.layers, self.layers, strict=True)
            )
        device = tfmr.norm.weight.device
        positions = torch.arange(max_positions, device=device)[None]
        cosine, sine = tfmr.rotary_emb(torch.empty(0, device=device), positions)
        self.register_buffer("cosine", cosine[0], persistent=False)  # [max_positions, head_dim]
        self.register_buffer("sine", sine[0], persistent=False)

    def forward(
        self, x: Tensor, rows: Tensor, positions: Tensor, kv_range: KVRange | None
    ) -> Tensor:
        """See `Backbone`."""
        if self._kernel_layers and x.shape[1] == 1:
            hidden = x[:, 0].contiguous().numpy()
            places = rows.numpy(), positions[:, 0].contiguous().numpy()
            angles = self.cosine.numpy(), self.sine.numpy()
            for weights in self._kernel_layers:
                hidden = kernels.decode_llama(weights, hidden, *angles, *places)
            x = torch.from_numpy(hidden)[:, None]
        else:
            inputs = AttentionInputs.of(rows, positions, kv_range, self.cache_dtype)
            cosine = self.cosine[positions][:, :, None]
            sine = self.sine[positions][:, :, None]
            for layer in self.layers:
                x = layer(x, inputs, cosine, sine)
        normed: Tensor = self.norm(x)
        return normed


class LlamaLayer(CachedLayer):
    def __init__(
        self, layer: Any, rows: int, max_positions: int, dtype: torch.dtype, compiler: Compiler
    ) -> None:
        attention = layer.self_attn
        shape = (rows, attention.config.num_key_value_heads, max_positions, attention.head_dim)
        super().__init__(QKVProjection(layer), AttentionOutputAndMLP(layer), shape, dtype, compiler)


class QKVProjection(nn.Module):
    """Query, key and value of a layer, with rotary embedding; key and value enter the cache."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.norm = layer.input_layernorm
        self.projections = fused_linears(layer.self_attn, "q_proj", "k_proj", "v_proj")
        self.head_dim = layer.self_attn.head_dim
        self.kv_heads = layer.self_attn.config.num_key_value_heads

    def forward(
        self,
        x: Tensor,
        cosine: Tensor,
        sine: Tensor,
        keys: Tensor,
        values: Tensor,
        rows: Tensor,
        positions: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """float32 [rows, n, dim] → query, key and value, each [rows, n, heads, head_dim]."""
        x = self.norm(x)
        projected = torch.cat([project(x) for project in self.projections], dim=-1)
        heads = projected.view(*projected.shape[:2], -1, self.head_dim)
        query_heads = heads.shape[2] - 2 * self.kv_heads
        query, key, value = torch.split(heads, [query_heads, self.kv_heads, self.kv_heads], dim=2)
        query, key = rotate(query, cosine, sine), rotate(key, cosine, sine)
        keys[rows, :, positions] = key
        values[rows, :, positions] = value
        return query, key, value


class AttentionOutputAndMLP(nn.Module):
    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.output = layer.self_attn.o_proj
        self.norm = layer.post_attention_layernorm
        self.gate_and_up = fused_linears(layer.mlp, "gate_proj", "up_proj")
        self.down = layer.mlp.down_proj

    def forward(self, x: Tensor, attn_out: Tensor) -> Tensor:
        """`x`: the layer's input, [rows, n, dim]; `attn_out`: [rows, heads, n, head_dim]."""
        x = x + self.output(attn_out.transpose(1, 2).flatten(2))
        normed = self.norm(x)
        projected = torch.cat([project(normed) for project in self.gate_and_up], dim=-1)
        gate, up = projected.chunk(2, dim=-1)
        hidden: Tensor = x + self.down(F.silu(gate) * up)
        return hidden


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary position embedding (Su et al. 2021, RoFormer) of `x`, [rows, n, heads, head_dim]."""
    left, right = x.chunk(2, dim=-1)
    return (x * cosine + torch.cat([-right, left], dim=-1) * sine).to(x.dtype)


def kernel_weights(
    layer: Any, keys: kernels.Floats, values: kernels.Floats
) -> kernels.LlamaWeights:
    """Of transformers' LlamaDecoderLayer, whose linear layers are `Int8Linear`."""
    attention, mlp = layer.self_attn, layer.mlp
    return kernels.LlamaWeights(
        _norm(layer.input_layernorm),
        attention.q_proj.arrays,
        attention.k_proj.arrays,
        attention.v_proj.arrays,
        attention.o_proj.arrays,
        _norm(layer.post_attention_layernorm),
        mlp.gate_proj.arrays,
        mlp.up_proj.arrays,
        mlp.down_proj.arrays,
        keys,
        values,
    )


def _norm(norm: Any) -> kernels.NormWeights:
    weight = norm.weight.numpy()
    return kernels.NormWeights(weight, np.zeros_like(weight), norm.variance_epsilon)
