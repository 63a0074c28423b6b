"""T3 at work: text chunks enter, speech tokens leave, one for every job in each step.

    tokenize(tokenizer, text)          once per text chunk
    batch.admit(request) → slot        computes the prompt; the job takes part from the next step on
    batch.step() → {slot: [Step]}      the next tokens of each job: one, or a few on a GPU
    batch.release(slot)                whenever a job is done or no longer wanted

The weights are those of upstream's `T3`, the loop around them is not: upstream decodes one text at
a time. All calls come from one thread, the engine's step loop. A GPU is given a few steps at a
time and read after the last of them.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from itertools import product
from math import prod
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from chatterbox.models.t3 import T3
from chatterbox.models.t3.modules.cond_enc import T3Cond
from chatterbox.models.tokenizers import EnTokenizer
from chatterbox.tts import punc_norm
from torch import Tensor, nn

from app.engines.chatterbox.compilation import NO_COMPILER, Compiler
from app.engines.chatterbox.linear import is_bfloat16, together
from app.engines.chatterbox.recording import NO_RECORDER, Recorder
from app.engines.chatterbox.sampling import Controls, controls_row, sample
from app.engines.chatterbox.voices import ChatterboxVoice
from app.errors import EmptyText, TextTooLong
from app.messages import SynthesisParams

MAX_TOKENS = 1000
"""Speech tokens in one go, 40 s of audio: upstream's limit."""

DEFAULT_POSITIONS = 1344
"""Of the cache: a voice (34), a text chunk of 300 tokens, which is 500 characters, and as many
speech tokens as there may be."""

_FIRST_SPAN = 256
_FEWEST_SLOTS = 2  # in a step, if there are as many: with under 4 rows MKL adds in another order
_FEWEST_SLOTS_OF_A_GPU = 8  # which take it as long as one does

_STEPS_AT_ONCE = 4  # of a GPU
_DRAWN_AT_ONCE = 16  # steps' noise, on a GPU: a multiple of these

_PROMPT_BUCKET = 64
_PROMPTS = range(512, 0, -_PROMPT_BUCKET)  # that have recordings
_ANY_PROMPT = (50,)  # no size of a model: a compiler would take it for that one


@dataclass(frozen=True)
class T3Request:
    """A text chunk to be spoken.

    `text_tokens`: int64 [1, n], from `tokenize`. `seed` decides all draws; below 2³², since torch
    ignores the bits above. After `max_tokens` the job is cut.
    """

    text_tokens: Tensor
    voice: ChatterboxVoice
    params: SynthesisParams
    seed: int
    max_tokens: int


class Ending(Enum):
    """Why no further token comes."""

    SPOKEN = auto()  # the end token came
    CUT = auto()  # it should have come before `max_tokens`


class Step(NamedTuple):
    """What a step gave a job. `token` is None if it is not speech (the end token among others)."""

    token: int | None
    ending: Ending | None


def tokenize(tokenizer: EnTokenizer, text: str) -> Tensor:
    """Text tokens, int64 [1, n], without start and stop. Raises `EmptyText`.

    Punctuation is normalised as upstream does it, but nothing is said where there is no text.
    """
    if not tokenizer.encode(text.strip()):
        raise EmptyText("there is nothing to say in the text", param="text")
    return torch.tensor([tokenizer.encode(punc_norm(text))])


def max_tokens(text: str) -> int:
    """How many speech tokens `text` can plausibly need: four times the usual 1.9 a character."""
    return min(MAX_TOKENS, int(4 * 1.9 * len(text)) + 25)


@dataclass
class _Job:
    generator: torch.Generator
    position: int  # in the cache, of the token to be fed next
    remaining: int
    ending: Ending | None = None
    computed: int = 0


class T3Batch:
    """Up to `slots` jobs that advance together; each gets the tokens that it would get alone.

    Each slot has a cache of two rows, `max_positions` long: at full size in float32 491,520 bytes
    a position, at once on a GPU and as they are reached on the CPU.
    """

    def __init__(
        self,
        t3: T3,
        slots: int,
        max_positions: int = DEFAULT_POSITIONS,
        compiler: Compiler = NO_COMPILER,
        recorder: Recorder = NO_RECORDER,
    ) -> None:
        fixed = recorder.fixes_shapes
        self._at_once = _STEPS_AT_ONCE if fixed else 1
        self._drawn_at_once = _DRAWN_AT_ONCE if fixed else 1
        self._prompts = _PROMPTS if fixed else _ANY_PROMPT
        self._prompt_bucket = _PROMPT_BUCKET if fixed else 1
        self._decoder = Decoder(t3, slots, max_positions, self._drawn_at_once, compiler)
        self._advance = recorder.by_shape(self._decoder)
        self._compute_prompt = recorder.by_shape(self._decoder.compute_prompt)
        fewest = _FEWEST_SLOTS_OF_A_GPU if fixed else _FEWEST_SLOTS
        self._widths = _doubling(min(fewest, slots), slots)
        self._spans = _doubling(min(_FIRST_SPAN, max_positions), max_positions)
        self._idle = set(range(slots))
        self._jobs: dict[int, _Job] = {}
        self._moving: list[int] = []
        self._voices = KnownVoices(t3)

    @property
    def free(self) -> int:
        """How many jobs may be admitted."""
        return len(self._idle)

    def warm_up(self) -> Iterator[None]:
        """Run all there is in all its shapes, so that no request waits; pauses after each."""
        self._decoder.move_only(())
        for length in self._prompts:
            with torch.inference_mode():
                self._compute_prompt.rehearse(length)
            yield
        for width, span in product(reversed(self._widths), reversed(self._spans)):
            with torch.inference_mode():
                self._advance.rehearse(width, span)
            yield

    @torch.inference_mode()
    def admit(self, request: T3Request) -> int:
        """Compute the prompt and return the job's slot. Raises `TextTooLong`.

        A slot must be free. The lowest is taken, so that steps stay narrow.
        """
        prompt = embed_prompt(self._decoder.t3, request, self._voices)
        length = prompt.shape[1]
        room = self._spans[-1] - length
        if room < 1:
            raise TextTooLong("a text chunk is too long for the model", param="text")
        slot = min(self._idle)
        self._decoder.begin(slot, prompt, controls_row(request.params))
        padding = -length % self._prompt_bucket
        self._compute_prompt(min(length + padding, self._spans[-1]))
        generator = torch.Generator(prompt.device).manual_seed(request.seed)
        self._jobs[slot] = _Job(generator, length, min(request.max_tokens, MAX_TOKENS, room))
        self._idle.remove(slot)
        return slot

    @torch.inference_mode()
    def step(self, waiting: frozenset[int] = frozenset()) -> dict[int, list[Step]]:
        """The next tokens, at least one, of each job that has not ended; but for those in the
        slots `waiting`.
        """
        moving = {
            slot: job for slot, job in self._jobs.items() if not job.ending and slot not in waiting
        }
        if not moving:
            return {}
        rows = self._compute(moving)
        return {slot: self._take(job, [row[slot] for row in rows]) for slot, job in moving.items()}

    def release(self, slot: int) -> None:
        """Forget the job in `slot`, whether it has ended or not."""
        del self._jobs[slot]
        self._idle.add(slot)

    def _compute(self, moving: dict[int, _Job]) -> list[list[int]]:
        """As many rows of tokens, by slot, as are computed at once."""
        for slot, job in moving.items():
            if job.computed % self._drawn_at_once == 0:
                self._decoder.noise[slot].exponential_(generator=job.generator)
            job.computed += self._at_once
        if self._moving != list(moving):
            self._moving = list(moving)
            self._decoder.move_only(moving.keys())
        width = _at_least(max(moving) + 1, self._widths)
        reached = max(job.position for job in moving.values()) + self._at_once
        span = _at_least(min(reached, self._spans[-1]), self._spans)
        tokens = torch.stack([self._advance(width, span).clone() for _ in range(self._at_once)])
        rows: list[list[int]] = tokens.tolist()
        return rows

    def _take(self, job: _Job, tokens: list[int]) -> list[Step]:
        """What the job is told: nothing of what was computed after its end."""
        steps: list[Step] = []
        for token in tokens:
            if not job.ending:
                steps.append(self._take_one(job, token))
        return steps

    def _take_one(self, job: _Job, token: int) -> Step:
        speech = self._decoder.t3.hp
        job.position += 1
        job.remaining -= 1
        if token == speech.stop_speech_token:
            job.ending = Ending.SPOKEN
        elif job.remaining == 0:
            job.ending = Ending.CUT
        return Step(token if token < speech.start_speech_token else None, job.ending)


class KnownVoices:
    """T3's conditioning, which depends on nothing but a voice and its exaggeration."""

    def __init__(self, t3: T3) -> None:
        self._t3 = t3
        self._known: WeakKeyDictionary[ChatterboxVoice, dict[float, Tensor]] = WeakKeyDictionary()

    def embed(self, voice: ChatterboxVoice, exaggeration: float) -> Tensor:
        """float32 [1, 34, dim]."""
        known = self._known.setdefault(voice, {})
        if exaggeration not in known:
            known.clear()  # one a voice: the defaults, as a rule
            device = self._t3.speech_emb.weight.device
            known[exaggeration] = self._t3.prepare_conditioning(
                T3Cond(
                    speaker_emb=voice.speaker_embedding,
                    cond_prompt_speech_tokens=voice.prompt_tokens,
                    emotion_adv=torch.full((1, 1, 1), exaggeration, device=device),
                )
            )
        return known[exaggeration]


def embed_prompt(t3: T3, request: T3Request, voices: KnownVoices) -> Tensor:
    """What precedes the speech, float32 [2, n, dim]: voice, text, start token.

    The second row, of which guidance leads away, does not know the text. The start token follows
    *again* as the first that is fed to a step: upstream embeds it twice, and the weights know it.
    As upstream's `T3.prepare_input_embeds`.
    """
    tokens = F.pad(request.text_tokens, (1, 0), value=t3.hp.start_text_token)
    tokens = F.pad(tokens, (0, 1), value=t3.hp.stop_text_token)
    tokens = tokens.to(t3.text_emb.weight.device)
    positions = t3.text_pos_emb(tokens)
    text = torch.stack([t3.text_emb(tokens[0]), torch.zeros_like(positions)]) + positions
    voice = voices.embed(request.voice, request.params.voice_exaggeration_factor)
    start = t3.speech_emb.weight[t3.hp.start_speech_token] + t3.speech_pos_emb.emb.weight[0]
    return torch.cat([voice.expand(2, -1, -1), text, start.expand(2, 1, -1)], dim=1)


# --- The network ----------------------------------------------------------------------------------


class Decoder(nn.Module):
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

    def compute_prompt(self, length: int) -> Tensor:
        """Fill the cache from the prompt's first `length` positions.

        What lies beyond its end is computed for nothing, and written over before it is read.
        """
        positions = torch.arange(length, device=self.prompt.device).expand(2, -1)
        prompt = self.prompt[:, :length].clone()  # compiled code tells a part of a buffer apart
        return self.transform(prompt, self.prompt_rows, positions, span=None)

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
        hidden = self.transform(both_rows(embedded), rows, both_rows(positions), span)
        logits: Tensor = self.t3.speech_head(hidden)
        return logits.float().view(width, 2, -1)

    def transform(self, x: Tensor, rows: Tensor, positions: Tensor, span: int | None) -> Tensor:
        """Llama on `x`, float32 [rows, n, dim], at `positions`, int64 [rows, n].

        With a `span`, above all positions, `x` sees what the cache holds below it; its `rows` are
        the first there are. Without one it is all that there is to see.
        """
        seen = torch.arange(x.shape[1] if span is None else span, device=x.device)
        hidden = torch.full((), -torch.inf, dtype=self.cache_dtype, device=x.device)
        place = Place(
            rows=rows[:, None],
            positions=positions,
            span=span,
            cosine=self.cosine[positions][:, :, None],
            sine=self.sine[positions][:, :, None],
            bias=torch.where(seen <= positions[:, None, :, None], 0, hidden),
        )
        for layer in self.layers:
            x = layer(x, place)
        normalised: Tensor = self.t3.tfmr.norm(x)
        return normalised


class Place(NamedTuple):
    """Where in the cache a pass reads and writes."""

    rows: Tensor  # that are written, int64 [rows, 1]
    positions: Tensor  # in them, int64 [rows, n]
    span: int | None  # positions that are read, None: only those that are written
    cosine: Tensor  # of the rotary embedding, [rows, n, 1, head_dim]
    sine: Tensor
    bias: Tensor  # [rows, 1, n, span]: 0 for what lies at or before each position, else -inf


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
        for name in ("keys", "values"):
            cache = untouched_zeros(shape, dtype, device)
            self.register_buffer(name, cache, persistent=False)

    def forward(self, x: Tensor, place: Place) -> Tensor:
        query, key, value = self._before(
            x, place.cosine, place.sine, self.keys, self.values, place.rows, place.positions
        )
        if place.span is None:
            keys, values = key.transpose(1, 2), value.transpose(1, 2)
        else:
            keys = self.keys[: len(x), :, : place.span]
            values = self.values[: len(x), :, : place.span]
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
        self.projections = together(layer.self_attn, "q_proj", "k_proj", "v_proj")
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
        self.gate_and_up = together(layer.mlp, "gate_proj", "up_proj")
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


def _doubling(first: int, last: int) -> list[int]:
    """`first`, doubled as often as it stays below `last`, and `last`."""
    steps = [first]
    while steps[-1] < last:
        steps.append(min(2 * steps[-1], last))
    return steps


def _at_least(needed: int, choices: list[int]) -> int:
    return next(choice for choice in choices if choice >= needed)
