"""T3's network with a memory: what is to be fed enters, the next tokens leave; called by `t3`.

    model = T3Model(t3, slots, max_positions)
    model.begin(slot, prompt, controls); model.compute_prompt(length, known=0)
    model(width, span)                                     a step of the first `width` slots
    memory = model.remember(slot, n); model.recall(slot, memory)    prompts may begin alike

The layers are upstream's, cut in two at the attention, which reads what the cache has of a row.
"""

from collections.abc import Collection
from math import prod
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from chatterbox.models.t3 import T3
from torch import Tensor, nn

from app.engines.chatterbox.runtime.compilation import NO_COMPILER, Compiler
from app.engines.chatterbox.runtime.linear import fused_linears, is_bfloat16
from app.engines.chatterbox.t3.sampling import Controls, sample

CACHES = ("keys", "values")


class T3Model(nn.Module):
    """T3 with a memory: slot `i` owns rows `2i` (conditional) and `2i + 1` of every cache.

    A step and a prompt read and write nothing but tensors that stay where they are, so a GPU can
    make recordings of them. Slots that are not `moving` take part to no effect: what they compute
    they have computed before, or nobody reads it.
    """

    token: Tensor
    length: Tensor
    spoken: Tensor
    moving: Tensor
    seen: Tensor
    controls: Tensor
    noise: Tensor
    prompt: Tensor
    prompt_rows: Tensor
    cosine: Tensor
    sine: Tensor

    def __init__(
        self,
        t3: T3,
        slots: int,
        max_positions: int,
        drawn_at_once: int = 1,
        compiler: Compiler = NO_COMPILER,
    ) -> None:
        super().__init__()
        self.t3 = t3
        in_bfloat16 = is_bfloat16(t3.tfmr.layers[0].self_attn.o_proj)
        self.cache_dtype = torch.bfloat16 if in_bfloat16 else torch.float32
        self.layers = nn.ModuleList(
            CachedLayer(layer, 2 * slots, max_positions, self.cache_dtype, compiler)
            for layer in t3.tfmr.layers
        )
        vocabulary, device = t3.speech_head.out_features, t3.speech_emb.weight.device

        def keep(name: str, tensor: Tensor) -> None:
            self.register_buffer(name, tensor.to(device), persistent=False)

        keep("token", torch.zeros(slots, dtype=torch.int64))  # to be fed next
        keep("length", torch.zeros(slots, dtype=torch.int64))  # of the prompt
        keep("spoken", torch.zeros(slots, dtype=torch.int64))  # tokens since
        keep("moving", torch.zeros(slots, dtype=torch.bool))
        keep("seen", torch.zeros(slots, vocabulary, dtype=torch.bool))
        keep("controls", torch.ones(slots, len(Controls._fields)))
        keep("noise", torch.ones(slots, drawn_at_once, vocabulary))  # of a few steps, in turn
        keep("prompt", torch.zeros(2, max_positions, t3.dim))  # of the slot that begins
        keep("prompt_rows", torch.zeros(2, dtype=torch.int64))
        positions = torch.arange(max_positions, device=device)[None]
        cosine, sine = t3.tfmr.rotary_emb(self.prompt, positions)
        keep("cosine", cosine[0])  # [max_positions, head_dim]
        keep("sine", sine[0])

    def begin(self, slot: int, prompt: Tensor, controls: Tensor) -> None:
        """Have the slot speak after `prompt`, [2, n, dim], once that has been computed."""
        length = prompt.shape[1]
        self.prompt[:, :length] = prompt
        self.prompt_rows[0] = 2 * slot
        self.prompt_rows[1] = 2 * slot + 1
        self.token[slot] = self.t3.hp.start_speech_token
        self.length[slot] = length
        self.spoken[slot] = 0
        self.seen[slot] = False
        self.controls[slot] = controls

    def compute_prompt(self, length: int, known: int) -> Tensor:
        """Fill the cache from the prompt's first `length` positions, but for the `known` first.

        What lies beyond its end is computed for nothing, and written over before it is read.
        """
        positions = torch.arange(known, length, device=self.prompt.device).expand(2, -1)
        prompt = self.prompt[:, known:length].clone()  # a view of a buffer needs a graph of its own
        first = int(self.prompt_rows[0]) if known else 0
        seen = Seen(slice(first, first + 2), slice(length)) if known else None
        return self.transform(prompt, self.prompt_rows, positions, seen)

    def remember(self, slot: int, length: int) -> Tensor:
        """Keys and values of the first `length` positions, in which a slot's rows are alike:
        [layers, 2, kv_heads, length, head_dim], of `cache_dtype`; the first row's.
        """
        caches = [layer.get_buffer(name) for layer in self.layers for name in CACHES]
        rows = torch.stack([cache[2 * slot, :, :length] for cache in caches])
        return rows.view(len(self.layers), len(CACHES), *rows.shape[1:])

    def recall(self, slot: int, memory: Tensor) -> None:
        """Have both rows of a slot begin with what `remember` gave."""
        rows, length = slice(2 * slot, 2 * slot + 2), memory.shape[3]
        for layer, remembered in zip(self.layers, memory, strict=True):
            for name, row in zip(CACHES, remembered, strict=True):
                layer.get_buffer(name)[rows, :, :length] = row

    def move_only(self, slots: Collection[int]) -> None:
        """Have all others stand still from now on."""
        self.moving.copy_(torch.tensor([slot in slots for slot in range(len(self.moving))]))

    def forward(self, width: int, span: int) -> Tensor:
        """The next token of each of the first `width` slots, int64 [width].

        What moves lies at positions below `span` and has fresh noise.
        """
        logits = self.logits(width, span)
        self.seen[:width].scatter_(1, self.token[:width, None], True)
        controls = Controls.from_table(self.controls[:width])
        turn = (self.spoken[:width] % self.noise.shape[1])[:, None, None]
        noise = self.noise[:width].take_along_dim(turn, dim=1)[:, 0]
        tokens = sample(logits, self.seen[:width], controls, noise)
        moving = self.moving[:width]
        self.token[:width] = torch.where(moving, tokens, self.token[:width])
        self.spoken[:width] += moving
        return tokens

    def logits(self, width: int, span: int) -> Tensor:
        """What may follow the tokens to be fed, float32 [width, 2, vocabulary]; fills the cache."""
        spoken = self.spoken[:width, None]
        embedded = self.t3.speech_emb(self.token[:width, None])
        embedded = embedded + self.t3.speech_pos_emb.get_fixed_embedding(spoken)
        positions = self.length[:width, None] + spoken
        positions = positions.clamp(max=len(self.cosine) - 1)  # of who has filled his cache
        rows = torch.arange(2 * width, device=spoken.device)
        seen = Seen(slice(2 * width), slice(span))
        hidden = self.transform(both_rows(embedded), rows, both_rows(positions), seen)
        logits: Tensor = self.t3.speech_head(hidden)
        return logits.float().view(width, 2, -1)

    def transform(self, x: Tensor, rows: Tensor, positions: Tensor, seen: "Seen | None") -> Tensor:
        """Llama on `x`, float32 [rows, n, dim], at `positions`, int64 [rows, n].

        `x` sees itself and what the cache holds in `seen`, up to each of its positions; without
        that, itself only, which then begins at position 0.
        """
        others = torch.arange(seen.positions.stop if seen else x.shape[1], device=x.device)
        hidden = torch.full((), -torch.inf, dtype=self.cache_dtype, device=x.device)
        place = Place(
            rows=rows[:, None],
            positions=positions,
            seen=seen,
            cosine=self.cosine[positions][:, :, None],
            sine=self.sine[positions][:, :, None],
            bias=torch.where(others <= positions[:, None, :, None], 0, hidden),
        )
        for layer in self.layers:
            x = layer(x, place)
        normalised: Tensor = self.t3.tfmr.norm(x)
        return normalised


class Seen(NamedTuple):
    """A part of the cache: rows and, from 0 on, positions."""

    rows: slice
    positions: slice


class Place(NamedTuple):
    """Where in the cache a pass reads and writes."""

    rows: Tensor  # that are written, int64 [rows, 1]
    positions: Tensor  # in them, int64 [rows, n]
    seen: Seen | None  # is read; None: only what is written
    cosine: Tensor  # of the rotary embedding, [rows, n, 1, head_dim]
    sine: Tensor
    bias: Tensor  # [rows, 1, n, seen]: 0 for what lies at or before each position, else -inf


class CachedLayer(nn.Module):
    """One of T3's layers, and the keys and values of every row so far.

    `keys`, `values`: [rows, kv_heads, max_positions, head_dim]. One pair for each layer, not one
    tensor for all, since the compiler can then write to them in place.
    """

    keys: Tensor
    values: Tensor

    def __init__(
        self,
        layer: Any,
        rows: int,
        max_positions: int,
        dtype: torch.dtype,
        compiler: Compiler = NO_COMPILER,
    ) -> None:
        super().__init__()
        self._before = compiler.compile(BeforeAttention(layer))
        self._after = compiler.compile(AfterAttention(layer))
        attention, device = layer.self_attn, layer.input_layernorm.weight.device
        shape = (rows, kv_heads(attention), max_positions, attention.head_dim)
        for name in CACHES:
            cache = untouched_zeros(shape, dtype, device)
            self.register_buffer(name, cache, persistent=False)

    def forward(self, x: Tensor, place: Place) -> Tensor:
        query, key, value = self._before(
            x, place.cosine, place.sine, self.keys, self.values, place.rows, place.positions
        )
        if place.seen is None:
            keys, values = key.transpose(1, 2), value.transpose(1, 2)
        else:
            keys = self.keys[place.seen.rows, :, place.seen.positions]
            values = self.values[place.seen.rows, :, place.seen.positions]
        heard = F.scaled_dot_product_attention(
            query.transpose(1, 2),
            keys,
            values,
            attn_mask=place.bias,
            enable_gqa=query.shape[2] != key.shape[2],
        )
        hidden: Tensor = self._after(x, heard)
        return hidden


class BeforeAttention(nn.Module):
    """A layer's part before its attention."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.norm = layer.input_layernorm
        self.projections = fused_linears(layer.self_attn, "q_proj", "k_proj", "v_proj")
        self.head_dim = layer.self_attn.head_dim
        self.kv_heads = kv_heads(layer.self_attn)

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
        """Query, key and value, each [rows, n, heads, head_dim]; the first two are rotated, the
        last two written to the cache, `keys` and `values`, at `rows` and `positions`.
        """
        x = self.norm(x)
        projected = torch.cat([project(x) for project in self.projections], dim=-1)
        heads = projected.view(*projected.shape[:2], -1, self.head_dim)
        queries = heads.shape[2] - 2 * self.kv_heads
        query, key, value = torch.split(heads, [queries, self.kv_heads, self.kv_heads], dim=2)
        query, key = rotate(query, cosine, sine), rotate(key, cosine, sine)
        keys[rows, :, positions] = key
        values[rows, :, positions] = value
        return query, key, value


class AfterAttention(nn.Module):
    """A layer's part after its attention."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.output = layer.self_attn.o_proj
        self.norm = layer.post_attention_layernorm
        self.gate_and_up = fused_linears(layer.mlp, "gate_proj", "up_proj")
        self.down = layer.mlp.down_proj

    def forward(self, x: Tensor, heard: Tensor) -> Tensor:
        """What leaves the layer, from what entered it, [rows, n, dim], and what attention
        `heard`, [rows, heads, n, head_dim].
        """
        x = x + self.output(heard.transpose(1, 2).flatten(2))
        inner = self.norm(x)
        projected = torch.cat([project(inner) for project in self.gate_and_up], dim=-1)
        gate, up = projected.chunk(2, dim=-1)
        hidden: Tensor = x + self.down(F.silu(gate) * up)
        return hidden


def kv_heads(attention: Any) -> int:
    """How many heads the keys have; the queries' may be a multiple of it."""
    heads: int = attention.config.num_key_value_heads
    return heads


def untouched_zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """As `torch.zeros`; on the CPU what is never written to takes no memory."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    pages = mmap(-1, prod(shape) * dtype.itemsize, flags=MAP_PRIVATE | MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=dtype).view(shape)


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn `x`, [rows, n, heads, head_dim], by its position (Su et al. 2021, RoFormer)."""
    left, right = x.chunk(2, dim=-1)
    return (x * cosine + torch.cat([-right, left], dim=-1) * sine).to(x.dtype)


def both_rows(x: Tensor) -> Tensor:
    """A slot's values, [slots, …], for each of its rows, [2·slots, …]."""
    return x.repeat_interleave(2, dim=0)
