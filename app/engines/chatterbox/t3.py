"""T3 at work: text chunks enter, speech tokens leave, one for every job in each step.

    tokenize(tokenizer, text)          once per text chunk
    batch.admit(request) → slot        computes the prompt; the job takes part from the next step on
    batch.step() → {slot: Step}        one token for each job
    batch.release(slot)                whenever a job is done or no longer wanted

The weights are those of upstream's `T3`, the loop around them is not: upstream decodes one text at
a time. All calls come from one thread, the engine's step loop.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from itertools import product
from math import prod
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from chatterbox.models.t3 import T3
from chatterbox.models.t3.modules.cond_enc import T3Cond
from chatterbox.models.tokenizers import EnTokenizer
from chatterbox.tts import punc_norm
from torch import Tensor, nn

from app.engines.chatterbox.compilation import NO_COMPILER, Compiler
from app.engines.chatterbox.sampling import Controls, controls_row, sample
from app.engines.chatterbox.voices import ChatterboxVoice
from app.errors import EmptyText, TextTooLong
from app.messages import SynthesisParams

MAX_TOKENS = 1000
"""Speech tokens in one go, 40 s of audio: upstream's limit."""

DEFAULT_POSITIONS = 1536
"""Of the cache: a voice (34), a text chunk of 500 tokens and as good as 1,000 speech tokens."""

_FIRST_SPAN = 256
_FEWEST_SLOTS = 2  # in a step, if there are as many: with under 4 rows MKL adds in another order


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
    ) -> None:
        self._decoder = Decoder(t3, slots, max_positions)
        self._advance = compiler.fixed(self._decoder)
        self._rehearsals = compiler.rehearsals
        self._widths = _doubling(min(_FEWEST_SLOTS, slots), slots)
        self._spans = _doubling(min(_FIRST_SPAN, max_positions), max_positions)
        self._idle = set(range(slots))
        self._jobs: dict[int, _Job] = {}

    @property
    def free(self) -> int:
        """How many jobs may be admitted."""
        return len(self._idle)

    def warm_up(self) -> Iterator[None]:
        """Run a step in all its shapes, so that no request waits for one; pauses after each."""
        self._decoder.move_only(())
        for width, span in product(self._widths, self._spans):
            with torch.inference_mode():
                for _ in range(self._rehearsals):
                    self._advance(width, span)
            yield

    @torch.inference_mode()
    def admit(self, request: T3Request) -> int:
        """Compute the prompt and return the job's slot. Raises `TextTooLong`.

        A slot must be free. The lowest is taken, so that steps stay narrow.
        """
        prompt = embed_prompt(self._decoder.t3, request)
        length = prompt.shape[1]
        room = self._spans[-1] - length
        if room < 1:
            raise TextTooLong("a text chunk is too long for the model", param="text")
        slot = min(self._idle)
        self._decoder.begin(slot, prompt, controls_row(request.params))
        generator = torch.Generator(prompt.device).manual_seed(request.seed)
        self._jobs[slot] = _Job(generator, length, min(request.max_tokens, MAX_TOKENS, room))
        self._idle.remove(slot)
        return slot

    @torch.inference_mode()
    def step(self, waiting: frozenset[int] = frozenset()) -> dict[int, Step]:
        """One token for each job that has not ended, but for those in the slots `waiting`."""
        moving = {
            slot: job for slot, job in self._jobs.items() if not job.ending and slot not in waiting
        }
        if not moving:
            return {}
        for slot, job in moving.items():
            self._decoder.noise[slot].exponential_(generator=job.generator)
        self._decoder.move_only(moving.keys())
        width = _at_least(max(moving) + 1, self._widths)
        span = _at_least(max(job.position for job in moving.values()) + 1, self._spans)
        tokens = self._advance(width, span).tolist()
        return {slot: self._take(job, tokens[slot]) for slot, job in moving.items()}

    def release(self, slot: int) -> None:
        """Forget the job in `slot`, whether it has ended or not."""
        del self._jobs[slot]
        self._idle.add(slot)

    def _take(self, job: _Job, token: int) -> Step:
        speech = self._decoder.t3.hp
        job.position += 1
        job.remaining -= 1
        if token == speech.stop_speech_token:
            job.ending = Ending.SPOKEN
        elif job.remaining == 0:
            job.ending = Ending.CUT
        return Step(token if token < speech.start_speech_token else None, job.ending)


def embed_prompt(t3: T3, request: T3Request) -> Tensor:
    """What precedes the speech, float32 [2, n, dim]: voice, text, start token.

    The second row, of which guidance leads away, does not know the text. The start token follows
    *again* as the first that is fed to a step: upstream embeds it twice, and the weights know it.
    """
    device = t3.speech_emb.weight.device
    text = F.pad(request.text_tokens.to(device), (1, 0), value=t3.hp.start_text_token)
    text = F.pad(text, (0, 1), value=t3.hp.stop_text_token)
    exaggeration = request.params.voice_exaggeration_factor
    voice = T3Cond(
        speaker_emb=request.voice.speaker_embedding,
        cond_prompt_speech_tokens=request.voice.prompt_tokens,
        emotion_adv=torch.full((1, 1, 1), exaggeration, device=device),
    )
    prompt: Tensor
    prompt, _ = t3.prepare_input_embeds(
        t3_cond=voice,
        text_tokens=text.expand(2, -1),
        speech_tokens=torch.full((2, 1), t3.hp.start_speech_token, device=device),
        cfg_weight=1.0,  # any but 0: zero the second row's text
    )
    return prompt


# --- The network ----------------------------------------------------------------------------------


class Decoder(nn.Module):
    """T3 with a memory: slot `i` owns rows `2i` (conditional) and `2i + 1` of every cache.

    A step reads and writes nothing but tensors that stay where they are, so it compiles to one
    graph, of which CUDA can make a recording. Slots that are not `moving` take part to no effect:
    what they compute they have computed before, or nobody reads it.
    """

    token: Tensor
    length: Tensor
    spoken: Tensor
    moving: Tensor
    seen: Tensor
    controls: Tensor
    noise: Tensor
    cosine: Tensor
    sine: Tensor

    def __init__(self, t3: T3, slots: int, max_positions: int) -> None:
        super().__init__()
        self.t3 = t3
        self.layers = nn.ModuleList(
            CachedLayer(layer, 2 * slots, max_positions) for layer in t3.tfmr.layers
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
        keep("noise", torch.ones(slots, vocabulary))
        positions = torch.arange(max_positions, device=device)[None]
        cosine, sine = t3.tfmr.rotary_emb(t3.tfmr.norm.weight, positions)
        keep("cosine", cosine[0])  # [max_positions, head_dim]
        keep("sine", sine[0])

    def begin(self, slot: int, prompt: Tensor, controls: Tensor) -> None:
        """Compute `prompt`, [2, n, dim], into the slot's cache, and have it speak from there."""
        length = prompt.shape[1]
        positions = torch.arange(length, device=prompt.device).expand(2, -1)
        self.transform(prompt, 2 * slot, positions, span=length)
        self.token[slot] = self.t3.hp.start_speech_token
        self.length[slot] = length
        self.spoken[slot] = 0
        self.seen[slot] = False
        self.controls[slot] = controls

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
        tokens = sample(logits, self.seen[:width], controls, self.noise[:width])
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
        hidden = self.transform(both_rows(embedded), 0, both_rows(positions), span)
        logits: Tensor = self.t3.speech_head(hidden)
        return logits.float().view(width, 2, -1)

    def transform(self, x: Tensor, first_row: int, positions: Tensor, span: int) -> Tensor:
        """Llama on `x`, [rows, n, dim], at `positions`, int64 [rows, n], all below `span`."""
        rows = torch.arange(first_row, first_row + len(x), device=x.device)
        place = Place(
            rows=slice(first_row, first_row + len(x)),
            span=span,
            cells=(rows[:, None], positions),
            cosine=self.cosine[positions][:, :, None],
            sine=self.sine[positions][:, :, None],
            visible=torch.arange(span, device=x.device) <= positions[:, None, :, None],
        )
        x = x.to(self.cosine.dtype)
        for layer in self.layers:
            x = layer(x, place)
        normalised: Tensor = self.t3.tfmr.norm(x)
        return normalised


class Place(NamedTuple):
    """Where in the cache a pass reads and writes."""

    rows: slice
    span: int  # positions that are read
    cells: tuple[Tensor, Tensor]  # that are written: rows [rows, 1], positions [rows, n]
    cosine: Tensor  # of the rotary embedding, [rows, n, 1, head_dim]
    sine: Tensor
    visible: Tensor  # bool [rows, 1, n, span]: what lies at or before each position


class CachedLayer(nn.Module):
    """One of T3's layers, and the keys and values of every row so far.

    `keys`, `values`: [rows, kv_heads, max_positions, head_dim]. One pair for each layer, not one
    tensor for all, since the compiler can then write to them in place.
    """

    keys: Tensor
    values: Tensor

    def __init__(self, layer: Any, rows: int, max_positions: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = layer.self_attn.head_dim
        like = layer.input_layernorm.weight
        kv_heads = layer.self_attn.k_proj.out_features // self.head_dim
        shape = (rows, kv_heads, max_positions, self.head_dim)
        self.register_buffer("keys", untouched_zeros(shape, like), persistent=False)
        self.register_buffer("values", untouched_zeros(shape, like), persistent=False)

    def forward(self, x: Tensor, place: Place) -> Tensor:
        x = x + self._attend(self.layer.input_layernorm(x), place)
        hidden: Tensor = x + self.layer.mlp(self.layer.post_attention_layernorm(x))
        return hidden

    def _attend(self, x: Tensor, place: Place) -> Tensor:
        attention = self.layer.self_attn
        query, key, value = (
            project(x).unflatten(-1, (-1, self.head_dim))  # [rows, n, heads, head_dim]
            for project in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        rows, positions = place.cells
        self.keys[rows, :, positions] = rotate(key, place)
        self.values[rows, :, positions] = value
        heard = F.scaled_dot_product_attention(
            rotate(query, place).transpose(1, 2),
            self.keys[place.rows, :, : place.span],
            self.values[place.rows, :, : place.span],
            attn_mask=place.visible,
            enable_gqa=query.shape[2] != key.shape[2],
        )
        attended: Tensor = attention.o_proj(heard.transpose(1, 2).flatten(2))
        return attended


def untouched_zeros(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """As `like.new_zeros(shape)`; on the CPU what is never written to takes no memory."""
    if like.device.type != "cpu":
        return like.new_zeros(shape)
    pages = mmap(-1, prod(shape) * like.element_size(), flags=MAP_PRIVATE | MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=like.dtype).view(shape)


def rotate(x: Tensor, place: Place) -> Tensor:
    """Turn `x`, [rows, n, heads, head_dim], by its position (Su et al. 2021, RoFormer)."""
    left, right = x.chunk(2, dim=-1)
    return x * place.cosine + torch.cat([-right, left], dim=-1) * place.sine


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
