"""The GPT-2 backbone: upstream's layers, split at the attention, which reads a static KV cache."""

from typing import Any

import torch
from torch import Tensor, nn

from app.engines.chatterbox.runtime import kernels
from app.engines.chatterbox.runtime.compilation import Compiler
from app.engines.chatterbox.runtime.linear import Bfloat16Linear, Int8Linear
from app.engines.chatterbox.t3.backbone import AttentionInputs, Backbone, CachedLayer, KVRange


class GPT2Backbone(Backbone):
    """transformers' GPT2Model, whose linear layers are those of `runtime.linear.use_linears`."""

    def __init__(self, tfmr: Any, rows: int, max_positions: int, compiler: Compiler) -> None:
        super().__init__()
        in_bf16 = isinstance(tfmr.h[0].attn.c_proj, Bfloat16Linear)
        self.cache_dtype = torch.bfloat16 if in_bf16 else torch.float32
        self.layers = nn.ModuleList(
            GPT2Layer(layer, rows, max_positions, self.cache_dtype, compiler) for layer in tfmr.h
        )
        self.position_embedding = tfmr.wpe
        self.norm = tfmr.ln_f
        self._kernel_layers: tuple[kernels.GPT2Weights, ...] = ()
        if isinstance(tfmr.h[0].attn.c_proj, Int8Linear):
            self._kernel_layers = tuple(
                kernel_weights(layer, cached.keys.numpy(), cached.values.numpy())
                for layer, cached in zip(tfmr.h, self.layers, strict=True)
            )

    def forward(
        self, x: Tensor, rows: Tensor, positions: Tensor, kv_range: KVRange | None
    ) -> Tensor:
        """See `Backbone`. Positions are embedded here, over the whole stream."""
        x = x + self.position_embedding(positions)
        if self._kernel_layers and x.shape[1] == 1:
            hidden = x[:, 0].contiguous().numpy()
            places = rows.numpy(), positions[:, 0].contiguous().numpy()
            for weights in self._kernel_layers:
                hidden = kernels.decode_gpt2(weights, hidden, *places)
            x = torch.from_numpy(hidden)[:, None]
        else:
            inputs = AttentionInputs.of(rows, positions, kv_range, self.cache_dtype)
            for layer in self.layers:
                x = layer(x, inputs)
        normed: Tensor = self.norm(x)
        return normed


class GPT2Layer(CachedLayer):
    def __init__(
        self, layer: Any, rows: int, max_positions: int, dtype: torch.dtype, compiler: Compiler
    ) -> None:
        attention = layer.attn
        shape = (rows, attention.num_heads, max_positions, attention.head_dim)
        super().__init__(QKVProjection(layer), AttentionOutputAndMLP(layer), shape, dtype, compiler)


class QKVProjection(nn.Module):
    """Query, key and value of a layer, in one product; key and value enter the cache."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.norm = layer.ln_1
        self.projection = layer.attn.c_attn
        self.head_dim = layer.attn.head_dim

    def forward(
        self, x: Tensor, keys: Tensor, values: Tensor, rows: Tensor, positions: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """float32 [rows, n, dim] → query, key and value, each [rows, n, heads, head_dim]."""
        projected = self.projection(self.norm(x))
        heads = projected.view(*projected.shape[:2], -1, self.head_dim)
        query, key, value = heads.chunk(3, dim=2)
        keys[rows, :, positions] = key
        values[rows, :, positions] = value
        return query, key, value


class AttentionOutputAndMLP(nn.Module):
    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.output = layer.attn.c_proj
        self.norm = layer.ln_2
        self.up = layer.mlp.c_fc
        self.activation = layer.mlp.act
        self.down = layer.mlp.c_proj

    def forward(self, x: Tensor, attn_out: Tensor) -> Tensor:
        """`x`: the layer's input, [rows, n, dim]; `attn_out`: [rows, heads, n, head_dim]."""
        x = x + self.output(attn_out.transpose(1, 2).flatten(2))
        hidden: Tensor = x + self.down(self.activation(self.up(self.norm(x))))
        return hidden


def kernel_weights(layer: Any, keys: kernels.Floats, values: kernels.Floats) -> kernels.GPT2Weights:
    """Of transformers' GPT2Block, whose linear layers are `Int8Linear`."""
    return kernels.GPT2Weights(
        _norm(layer.ln_1),
        layer.attn.c_attn.arrays,
        layer.attn.c_proj.arrays,
        _norm(layer.ln_2),
        layer.mlp.c_fc.arrays,
        layer.mlp.c_proj.arrays,
        keys,
        values,
    )


def _norm(norm: Any) -> kernels.NormWeights:
    return kernels.NormWeights(norm.weight.numpy(), norm.bias.numpy(), norm.eps)
