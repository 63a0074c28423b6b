"""T3 at work: text chunks enter, speech tokens leave, one for every job in each step.

    tokenize(tokenizer, text)          once per text chunk
    batch.admit(request) → slot        computes the prompt; the job takes part from the next step on
    batch.step() → {slot: [Step]}      the next tokens of each job: one, or a few on a GPU
    batch.release(slot)                whenever a job is done or no longer wanted

The weights are those of upstream's `T3`, the loop around them is not: upstream decodes one text at
a time. All calls come from one thread, the engine's step loop. A GPU is given a few steps at a
time and read after the last of them.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from itertools import product
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from chatterbox.models.t3 import T3
from chatterbox.models.t3.modules.cond_enc import T3Cond
from chatterbox.models.tokenizers import EnTokenizer
from chatterbox.tts import punc_norm
from torch import Tensor

from app.core.errors import EmptyText, TextTooLong
from app.core.params import SynthesisParams
from app.engines.chatterbox.conditioning.conditionals import Conditionals
from app.engines.chatterbox.runtime.compilation import NO_COMPILER, Compiler
from app.engines.chatterbox.runtime.cuda_graphs import EAGER, GraphCapturer
from app.engines.chatterbox.t3.model import T3Model
from app.engines.chatterbox.t3.sampling import controls_row

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
_PROMPTS = [(length, 0) for length in range(512, 0, -_PROMPT_BUCKET)]  # that have recordings
_ANY_PROMPT = [(50, 0), (90, 50)]  # no size of a model: a compiler would take it for that one

_REMEMBERED = 4
"""Voices whose keys and values are kept, 8 MB each at full size in float32; the latest, also when
they were deleted."""


@dataclass(frozen=True)
class T3Request:
    """A text chunk to be spoken.

    `text_tokens`: int64 [1, n], from `tokenize`. `seed` decides all draws; below 2³², since torch
    ignores the bits above. After `max_tokens` the job is cut.
    """

    text_tokens: Tensor
    voice: Conditionals
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
        raise EmptyText("There is nothing to say in the text.", param="text")
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
        capturer: GraphCapturer = EAGER,
    ) -> None:
        fixed = capturer.static_shapes
        self._at_once = _STEPS_AT_ONCE if fixed else 1
        self._drawn_at_once = _DRAWN_AT_ONCE if fixed else 1
        self._prompts = _PROMPTS if fixed else _ANY_PROMPT
        self._prompt_bucket = _PROMPT_BUCKET if fixed else 1
        self._remembers = not fixed  # a recording takes as long for a prompt without its voice
        self._model = T3Model(t3, slots, max_positions, self._drawn_at_once, compiler)
        self._advance = capturer.wrap(self._model)
        self._compute_prompt = capturer.wrap(self._model.compute_prompt)
        fewest = _FEWEST_SLOTS_OF_A_GPU if fixed else _FEWEST_SLOTS
        self._widths = _doubling(min(fewest, slots), slots)
        self._spans = _doubling(min(_FIRST_SPAN, max_positions), max_positions)
        self._idle = set(range(slots))
        self._jobs: dict[int, _Job] = {}
        self._moving: list[int] = []
        self._voices = ConditioningCache(t3)
        self._memories: OrderedDict[tuple[Conditionals, float], Tensor] = OrderedDict()

    @property
    def free(self) -> int:
        """How many jobs may be admitted."""
        return len(self._idle)

    def warm_up(self) -> Iterator[None]:
        """Run all there is in all its shapes, so that no request waits; pauses after each."""
        self._model.move_only(())
        for shape in self._prompts:
            with torch.inference_mode():
                self._compute_prompt.capture(*shape)
            yield
        for width, span in product(reversed(self._widths), reversed(self._spans)):
            with torch.inference_mode():
                self._advance.capture(width, span)
            yield

    @torch.inference_mode()
    def admit(self, request: T3Request) -> int:
        """Compute the prompt and return the job's slot. Raises `TextTooLong`.

        A slot must be free. The lowest is taken, so that steps stay narrow.
        """
        prompt = embed_prompt(self._model.t3, request, self._voices)
        length = prompt.shape[1]
        room = self._spans[-1] - length
        if room < 1:
            raise TextTooLong("A text chunk is too long for the model.", param="text")
        slot = min(self._idle)
        self._model.begin(slot, prompt, controls_row(request.params))
        known = self._recall_voice(slot, request) if self._remembers else 0
        padding = -length % self._prompt_bucket
        self._compute_prompt(min(length + padding, self._spans[-1]), known)
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

    def _recall_voice(self, slot: int, request: T3Request) -> int:
        """Have what the prompt begins with, the voice, in the slot's cache; how long that is."""
        exaggeration = request.params.voice_exaggeration_factor
        length = self._voices.embed(request.voice, exaggeration).shape[1]
        memory = self._memories.pop((request.voice, exaggeration), None)
        if memory is None:
            self._compute_prompt(length, 0)
            memory = self._model.remember(slot, length)
        self._model.recall(slot, memory)  # the first time, too: both rows are then the same bits
        self._memories[request.voice, exaggeration] = memory  # the latest is the last
        if len(self._memories) > _REMEMBERED:
            self._memories.popitem(last=False)
        return length

    def _compute(self, moving: dict[int, _Job]) -> list[list[int]]:
        """As many rows of tokens, by slot, as are computed at once."""
        for slot, job in moving.items():
            if job.computed % self._drawn_at_once == 0:
                self._model.noise[slot].exponential_(generator=job.generator)
            job.computed += self._at_once
        if self._moving != list(moving):
            self._moving = list(moving)
            self._model.move_only(moving.keys())
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
        speech = self._model.t3.hp
        job.position += 1
        job.remaining -= 1
        if token == speech.stop_speech_token:
            job.ending = Ending.SPOKEN
        elif job.remaining == 0:
            job.ending = Ending.CUT
        return Step(token if token < speech.start_speech_token else None, job.ending)


class ConditioningCache:
    """T3's conditioning, which depends on nothing but a voice and its exaggeration."""

    def __init__(self, t3: T3) -> None:
        self._t3 = t3
        self._known: WeakKeyDictionary[Conditionals, dict[float, Tensor]] = WeakKeyDictionary()

    def embed(self, voice: Conditionals, exaggeration: float) -> Tensor:
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


def embed_prompt(t3: T3, request: T3Request, voices: ConditioningCache) -> Tensor:
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


def _doubling(first: int, last: int) -> list[int]:
    """`first`, doubled as often as it stays below `last`, and `last`."""
    steps = [first]
    while steps[-1] < last:
        steps.append(min(2 * steps[-1], last))
    return steps


def _at_least(needed: int, choices: list[int]) -> int:
    return next(choice for choice in choices if choice >= needed)
