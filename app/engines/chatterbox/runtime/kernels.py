"""Numba kernels for one decoding step of a layer of T3 with int8 weights on a CPU.

Between torch's operations a step would spend more time than in them; a kernel runs a whole layer
in one call, without the GIL and on one core, and leaves the others to S3Gen. Each row is computed
by itself, so that its result does not depend on the rows beside it.

They are in one file, because Numba does not compile a kernel anew when one that it calls has
changed in another file.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Kernel = TypeVar("Kernel", bound=Callable[..., Any])


class Int8Weights(NamedTuple):
    """Of a linear layer: `weight`, int8 [out, in]; `scale` and `bias`, float32 [out]."""

    weight: NDArray[np.int8]
    scale: Floats
    bias: Floats


class NormWeights(NamedTuple):
    """Of a normalisation, float32 [dim] each; `bias` is zero where there is none."""

    weight: Floats
    bias: Floats
    eps: float


class GPT2Weights(NamedTuple):
    """`keys`, `values`: the layer's KV cache, float32 [rows, heads, positions, head_dim]."""

    attention_norm: NormWeights
    qkv: Int8Weights
    output: Int8Weights
    mlp_norm: NormWeights
    up: Int8Weights
    down: Int8Weights
    keys: Floats
    values: Floats


class LlamaWeights(NamedTuple):
    """`keys`, `values`: the layer's KV cache, float32 [rows, kv_heads, positions, head_dim]."""

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


_OPTIONS: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"reassoc", "contract", "nsz"},  # vector instructions add up in another order
}


def compiled(function: Kernel) -> Kernel:
    """Compile at the first call; keep the result on disk where Numba finds a folder to write to."""
    try:
        kernel = numba.njit(cache=True, **_OPTIONS)(function)
    except RuntimeError:  # Numba found none
        kernel = numba.njit(**_OPTIONS)(function)
    return cast(Kernel, kernel)


@compiled
def dot(weights: NDArray[Any], x: Floats) -> np.float32:
    """Of `weights`, int8 or float32 [n], and `x`, float32 [n]."""
    total = np.float32(0)
    for index in range(len(x)):
        total += np.float32(weights[index]) * x[index]
    return total


@compiled
def linear(layer: Int8Weights, x: Floats) -> Floats:
    """float32 [rows, in] → float32 [rows, out]. Each weight is read from memory once."""
    y = np.empty((len(x), len(layer.weight)), np.float32)
    for output in range(len(layer.weight)):
        for row in range(len(x)):
            total = dot(layer.weight[output], x[row])
            y[row, output] = total * layer.scale[output] + layer.bias[output]
    return y


@compiled
def add_linear(layer: Int8Weights, x: Floats, y: Floats) -> None:
    """Add the layer's output for `x`, float32 [rows, in], to `y`, float32 [rows, out]."""
    for output in range(len(layer.weight)):
        for row in range(len(x)):
            total = dot(layer.weight[output], x[row])
            y[row, output] += total * layer.scale[output] + layer.bias[output]


@compiled
def layer_norm(norm: NormWeights, x: Floats) -> Floats:
    """float32 [rows, dim] → the same."""
    y = np.empty_like(x)
    dim = x.shape[1]
    for row in range(len(x)):
        total, squares = np.float32(0), np.float32(0)
        for index in range(dim):
            total += x[row, index]
        mean = total / np.float32(dim)
        for index in range(dim):
            y[row, index] = x[row, index] - mean
            squares += y[row, index] * y[row, index]
        scale = np.float32(1 / np.sqrt(squares / np.float32(dim) + norm.eps))
        for index in range(dim):
            y[row, index] = y[row, index] * scale * norm.weight[index] + norm.bias[index]
    return y


@compiled
def rms_norm(norm: NormWeights, x: Floats) -> Floats:
    """float32 [rows, dim] → the same."""
    y = np.empty_like(x)
    dim = x.shape[1]
    for row in range(len(x)):
        mean_square = dot(x[row], x[row]) / np.float32(dim)
        scale = np.float32(1 / np.sqrt(mean_square + norm.eps))
        for index in range(dim):
            y[row, index] = x[row, index] * scale * norm.weight[index]
    return y


@compiled
def attend(query: Floats, keys: Floats, values: Floats, length: int, out: Floats) -> None:
    """Attention of one new position to the first `length` positions of its row of the KV cache.

    `query`, `out`: float32 [heads · head_dim]. `keys`, `values`: float32 [kv_heads, positions,
    head_dim].
    """
    kv_heads, _, head_dim = keys.shape
    heads = len(query) // head_dim
    scores = np.empty(length, np.float32)
    scale = np.float32(1 / np.sqrt(head_dim))
    out[:] = 0
    for head in range(heads):
        start, kv_head = head * head_dim, head // (heads // kv_heads)
        largest, total = np.float32(-np.inf), np.float32(0)
        for position in range(length):
            score = np.float32(0)
            for index in range(head_dim):
                score += keys[kv_head, position, index] * query[start + index]
            scores[position] = score * scale
            largest = max(largest, scores[position])
        for position in range(length):
            scores[position] = np.exp(scores[position] - largest)
            total += scores[position]
        for position in range(length):
            weight = scores[position] / total
            for index in range(head_dim):
                out[start + index] += weight * values[kv_head, position, index]


@compiled
def write_kv(cache: Floats, position: int, entry: Floats) -> None:
    """Write `entry`, float32 [kv_heads · head_dim], to a row's keys or values."""
    kv_heads, _, head_dim = cache.shape
    for head in range(kv_heads):
        for index in range(head_dim):
            cache[head, position, index] = entry[head * head_dim + index]


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


@compiled
def decode_gpt2(
    layer: GPT2Weights, x: Floats, rows: NDArray[np.int64], positions: NDArray[np.int64]
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
def decode_llama(
    layer: LlamaWeights,
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
