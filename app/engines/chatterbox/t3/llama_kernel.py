"""One decoding step of a Llama layer with int8 weights on a CPU, as a Numba kernel."""

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
    linear,
    rms_norm,
    write_kv,
)


class LayerWeights(NamedTuple):
    """`keys`, `values`: the layer's KV cache, float32 [rows, kv_heads, max_positions, head_dim]."""

    attention_norm: NormWeights
    query: Int8Weights
    key: Int8Weights
    value: Int8Weights
    output: Int8Weights
    mlp_norm: NormWeights
    gate: Int8Weights
    up: Int8Weights
    down: Int8Weights
    keys: Floats
    values: Floats


def layer_weights(layer: Any, keys: Floats, values: Floats) -> LayerWeights:
    """Of transformers' LlamaDecoderLayer, whose linear layers are `Int8Linear`."""
    attention, mlp = layer.self_attn, layer.mlp
    return LayerWeights(
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


def _norm(norm: Any) -> NormWeights:
    weight = norm.weight.numpy()
    return NormWeights(weight, np.zeros_like(weight), norm.variance_epsilon)


@compiled
def decode(
    layer: LayerWeights,
    x: Floats,
    cosine: Floats,
    sine: Floats,
    rows: NDArray[np.int64],
    positions: NDArray[np.int64],
) -> Floats:
    """float32 [rows, dim] → float32 [rows, dim]; `x[i]` is at `positions[i]` of row `rows[i]`.

    `cosine`, `sine`: of the rotary embedding, float32 [max_positions, head_dim].
    """
    normed = rms_norm(layer.attention_norm, x)
    query, key = linear(layer.query, normed), linear(layer.key, normed)
    value = linear(layer.value, normed)
    attended, y = np.empty_like(query), x.copy()
    for index in range(len(x)):
        keys, values = layer.keys[rows[index]], layer.values[rows[index]]
        position = positions[index]
        rotate(query[index], cosine[position], sine[position])
        rotate(key[index], cosine[position], sine[position])
        write_kv(keys, position, key[index])
        write_kv(values, position, value[index])
        attend(query[index], keys, values, position + 1, attended[index])
    add_linear(layer.output, attended, y)
    normed = rms_norm(layer.mlp_norm, y)
    hidden = linear(layer.gate, normed)
    swiglu(hidden, linear(layer.up, normed))
    add_linear(layer.down, hidden, y)
    return y


@compiled
def rotate(x: Floats, cosine: Floats, sine: Floats) -> None:
    """`llama.rotate` of `x`, float32 [heads · head_dim], at one position, in place."""
    half = len(cosine) // 2
    for start in range(0, len(x), 2 * half):
        for index in range(half):
            left, right = x[start + index], x[start + half + index]
            x[start + index] = left * cosine[index] - right * sine[index]
            x[start + half + index] = right * cosine[half + index] + left * sine[half + index]


@compiled
def swiglu(gate: Floats, up: Floats) -> None:
    """float32 [rows, n] each; the result replaces `gate`."""
    one = np.float32(1)
    for row in range(len(gate)):
        for index in range(gate.shape[1]):
            value = gate[row, index]
            gate[row, index] = value / (one + np.exp(-value)) * up[row, index]
