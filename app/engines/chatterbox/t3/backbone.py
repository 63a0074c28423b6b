"""Common parts of T3's transformer backbones: layers with a static KV cache, and attention."""

from math import prod
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from app.engines.chatterbox.runtime.compilation import Compiler


class KVRange(NamedTuple):
    """The part of the KV cache to attend to; `positions` begin at 0."""

    rows: slice
    positions: slice


class AttentionInputs(NamedTuple):
    """Where a forward pass writes to the KV cache and what it attends to."""

    rows: Tensor  # to write, int64 [rows, 1]
    positions: Tensor  # to write, int64 [rows, n]
    kv_range: KVRange | None  # to read; None: only the keys and values of this pass
    mask: Tensor  # causal, [rows, 1, n, kv_len], added to the scores: 0 or -inf

    @classmethod
    def of(
        cls, rows: Tensor, positions: Tensor, kv_range: KVRange | None, dtype: torch.dtype
    ) -> "AttentionInputs":
        device = positions.device
        kv_len = kv_range.positions.stop if kv_range else positions.shape[1]
        kv_positions = torch.arange(kv_len, device=device)
        hidden = torch.full((), -torch.inf, dtype=dtype, device=device)
        mask = torch.where(kv_positions <= positions[:, None, :, None], 0, hidden)
        return cls(rows[:, None], positions, kv_range, mask)


class Backbone(nn.Module):
    """The transformer between T3's embeddings and its speech head."""

    layers: nn.ModuleList  # of `CachedLayer`

    def forward(
        self, x: Tensor, rows: Tensor, positions: Tensor, kv_range: KVRange | None
    ) -> Tensor:
        """float32 [rows, n, dim] → float32 [rows, n, dim]; fills the KV cache.

        `x` belongs to the cache's `rows`, int64 [rows], and `positions`, int64 [rows, n]. Each
        position attends to those of `kv_range` up to itself; if that is None, only to those of
        `x`, which then begins at 0.
        """
        raise NotImplementedError


class CachedLayer(nn.Module):
    """A decoder layer with a KV cache: `keys`, `values`, [rows, kv_heads, max_positions, head_dim].

    `project`, before the attention: the layer's input, the `rotary` tensors if there are any, cache
    and places in it → query, key and value, which it also writes to the cache. `output_and_mlp`,
    after it: the layer's input and the attention's output → the layer's output. Each layer has a
    cache of its own, since compiled code can then write to it in place.
    """

    keys: Tensor
    values: Tensor

    def __init__(
        self,
        project: nn.Module,
        output_and_mlp: nn.Module,
        shape: tuple[int, int, int, int],
        dtype: torch.dtype,
        compiler: Compiler,
    ) -> None:
        """`shape`, `dtype`: of the cache."""
        super().__init__()
        device = next(project.parameters()).device
        for name in ("keys", "values"):
            self.register_buffer(name, lazy_zeros(shape, dtype, device), persistent=False)
        self._project = compiler.compile(project)
        self._output_and_mlp = compiler.compile(output_and_mlp)

    def forward(self, x: Tensor, inputs: AttentionInputs, *rotary: Tensor) -> Tensor:
        query, key, value = self._project(
            x, *rotary, self.keys, self.values, inputs.rows, inputs.positions
        )
        hidden: Tensor = self._output_and_mlp(x, self.attend(query, key, value, inputs))
        return hidden

    def attend(self, query: Tensor, key: Tensor, value: Tensor, inputs: AttentionInputs) -> Tensor:
        """[rows, n, heads, head_dim] each → [rows, heads, n, head_dim]."""
        if inputs.kv_range is None:
            keys, values = key.transpose(1, 2), value.transpose(1, 2)
        else:
            keys = self.keys[inputs.kv_range.rows, :, inputs.kv_range.positions]
            values = self.values[inputs.kv_range.rows, :, inputs.kv_range.positions]
        return F.scaled_dot_product_attention(
            query.transpose(1, 2),
            keys,
            values,
            attn_mask=inputs.mask,
            enable_gqa=query.shape[2] != key.shape[2],
        )

    def export_kv(self, row: int, length: int) -> Tensor:
        return torch.stack([self.keys[row, :, :length], self.values[row, :, :length]])

    def load_kv(self, rows: slice, kv: Tensor) -> None:
        length = kv.shape[2]
        self.keys[rows, :, :length], self.values[rows, :, :length] = kv


def lazy_zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Like `torch.zeros`, but on a CPU a page takes memory only once it is written to."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    pages = mmap(-1, prod(shape) * dtype.itemsize, flags=MAP_PRIVATE | MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=dtype).view(shape)
