"""One decoding step of a GPT-2 layer with int8 weights on a CPU, as a Numba kernel."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.engines.chatterbox.runtime.kernels import (
    Floats,
    Int8Weights,
    NormWeights,
    add_linear,
    attend,
    compiled,
    layer_norm,
    linear,
    write_kv,
)


class LayerWeights(NamedTuple):
    """`keys`, `values`: the layer's KV cache, float32 [rows, heads, max_positions, head_dim]."""

    attention_norm: NormWeights
    qkv: Int8Weights
    output: Int8Weights
    mlp_norm: NormWeights
    up: Int8Weights
    down: Int8Weights
    keys: Floats
    values: Floats


def layer_weights(layer: Any, keys: Floats, values: Floats) -> LayerWeights:
    """Of transformers' GPT2Block, whose linear layers are `Int8Linear`."""
    return LayerWeights(
        _norm(layer.ln_1),
        layer.attn.c_attn.arrays,
        layer.attn.c_proj.arrays,
        _norm(layer.ln_2),
        layer.mlp.c_fc.arrays,
        layer.mlp.c_proj.arrays,
        keys,
        values,
    )


def _norm(norm: Any) -> NormWeights:
    return NormWeights(norm.weight.numpy(), norm.bias.numpy(), norm.eps)


@compiled
def decode(
    layer: LayerWeights, x: Floats, rows: NDArray[np.int64], positions: NDArray[np.int64]
) -> Floats:
    """float32 [rows, dim] → float32 [rows, dim]; `x[i]` is at `positions[i]` of row `rows[i]`."""
    dim = x.shape[1]
    qkv = linear(layer.qkv, layer_norm(layer.attention_norm, x))
    attended, y = np.empty_like(x), x.copy()
    for index in range(len(x)):
        keys, values = layer.keys[rows[index]], layer.values[rows[index]]
        position = positions[index]
        write_kv(keys, position, qkv[index, dim : 2 * dim])
        write_kv(values, position, qkv[index, 2 * dim :])
        attend(qkv[index, :dim], keys, values, position + 1, attended[index])
    add_linear(layer.output, attended, y)
    hidden = linear(layer.up, layer_norm(layer.mlp_norm, y))
    gelu(hidden)
    add_linear(layer.down, hidden, y)
    return y


@compiled
def gelu(x: Floats) -> None:
    """GPT-2's (Hendrycks & Gimpel 2016, with the hyperbolic tangent), in place."""
    slope, cubic = np.float32(np.sqrt(2 / np.pi)), np.float32(0.044715)
    half, one = np.float32(0.5), np.float32(1)
    for row in range(len(x)):
        for index in range(x.shape[1]):
            value = x[row, index]
            inner = slope * (value + cubic * value * value * value)
            x[row, index] = half * value * (one + np.tanh(inner))
