"""T3's batch: sequences of many jobs, decoded in the same steps (continuous batching).

    slot = batch.admit(request)                 prefill: the prompt enters the slot's KV cache
    batch.step() → {slot: [TokenOutput]}        decode: the next tokens of every sequence
    batch.release(slot)                         at the end of a sequence or when it is cancelled

All calls come from the thread of `T3Scheduler`. On a GPU one step decodes several tokens, so that
the host waits for the device once for all of them.
"""

from collections import OrderedDict
from collections.abc import Iterator, Set
from dataclasses import dataclass
from itertools import product

import torch
from chatterbox.models.t3 import T3
from torch import Tensor

from app.core.errors import TextTooLong
from app.engines.chatterbox.conditioning.conditionals import Conditionals
from app.engines.chatterbox.runtime.compilation import NO_COMPILER, Compiler
from app.engines.chatterbox.runtime.cuda_graphs import EAGER, GraphCapturer
from app.engines.chatterbox.runtime.linear import ROW_INDEPENDENT
from app.engines.chatterbox.t3.model import T3Model
from app.engines.chatterbox.t3.prompt import ConditioningCache, embed_prompt
from app.engines.chatterbox.t3.request import FinishReason, T3Request, TokenOutput
from app.engines.chatterbox.t3.sampling import sampling_row
from app.engines.chatterbox.variants import T3Spec

MAX_TEXT_TOKENS = 300
"""The KV cache has room for a text chunk of so many tokens (500 characters) beside the longest
voice and speech; a longer one leaves less for the speech."""

MIN_KV_BUCKET = 256
MKL_MIN_ROWS = 4
"""Smallest batch with torch's own linear layers: with fewer rows MKL sums in another order."""

PREFIX_CACHE_SIZE = 4
"""Prompt prefixes kept, even of voices deleted meanwhile. At full size in float32 one takes 8 MB,
with Turbo 74 MB."""

GPU_MIN_BATCH = 8  # which takes a GPU as long as 1
GPU_STEPS_PER_SYNC = 4
GPU_NOISE_STEPS = 16  # a multiple of GPU_STEPS_PER_SYNC

GPU_PROMPT_BUCKET = 64
GPU_MAX_TEXT_TOKENS = 478  # of the longest prompt with a captured graph

DYNAMIC_PROMPTS = [(50, 0), (90, 50)]
"""Warm-up shapes, (length, num_cached), where shapes are dynamic. They equal no dimension of the
model, so that Dynamo does not specialise on them."""


@dataclass
class _Sequence:
    generator: torch.Generator
    position: int  # in the KV cache, of the next input token
    remaining: int  # tokens until the length limit
    finish_reason: FinishReason | None = None
    num_emitted: int = 0
    num_decoded: int = 0  # including tokens after the stop token


class T3Batch:
    """Up to `slots` sequences, each of which gets the same tokens as if it were decoded alone.

    The KV cache has `max_positions` positions per slot. A position takes 491,520 bytes at full size
    in float32 (196,608 with Turbo), allocated at once on a GPU and when first written on a CPU.
    """

    def __init__(
        self,
        t3: T3,
        spec: T3Spec,
        slots: int,
        compiler: Compiler = NO_COMPILER,
        capturer: GraphCapturer = EAGER,
        max_positions: int | None = None,
    ) -> None:
        static = capturer.static_shapes
        self._spec = spec
        self._steps_per_sync = GPU_STEPS_PER_SYNC if static else 1
        self._noise_steps = GPU_NOISE_STEPS if static else 1
        self._prompts = gpu_prompts(spec) if static else DYNAMIC_PROMPTS
        self._prompt_bucket = GPU_PROMPT_BUCKET if static else 1
        min_rows = 1 if isinstance(t3.speech_head, ROW_INDEPENDENT) else MKL_MIN_ROWS
        min_batch = GPU_MIN_BATCH if static else max(1, min_rows // spec.rows_per_sequence)
        max_positions = max_positions or default_positions(spec)
        self._batch_buckets = _doubling(min(min_batch, slots), slots)
        self._kv_buckets = _doubling(min(MIN_KV_BUCKET, max_positions), max_positions)
        self._model = T3Model(t3, spec, slots, max_positions, self._noise_steps, compiler)
        self._decode = capturer.wrap(self._model)
        self._prefill = capturer.wrap(self._model.prefill)
        self._free = set(range(slots))
        self._sequences: dict[int, _Sequence] = {}
        self._active: list[int] = []
        self._conditioning = ConditioningCache(t3)
        # The KV cache of a voice's part of the prompt, by what it depends on; not with captured
        # graphs, whose prefill takes as long with a cached prefix as without.
        self._caches_prefixes = not static
        self._prefix_cache: OrderedDict[tuple[Conditionals, float], Tensor] = OrderedDict()

    @property
    def free(self) -> int:
        return len(self._free)

    def warm_up(self) -> Iterator[None]:
        """Run prefill and decoding in every shape, one per iteration."""
        self._model.set_active(())
        for shape in self._prompts:
            with torch.inference_mode():
                self._prefill.capture(*shape)
            yield
        for shape in product(reversed(self._batch_buckets), reversed(self._kv_buckets)):
            with torch.inference_mode():
                self._decode.capture(*shape)
            yield

    @torch.inference_mode()
    def admit(self, request: T3Request) -> int:
        """Prefill the prompt and return its slot; one must be free. Raises `TextTooLong`."""
        prompt = embed_prompt(self._model.t3, self._spec, request, self._conditioning)
        length, max_positions = prompt.shape[1], self._kv_buckets[-1]
        room = max_positions - length
        if room < 1:
            raise TextTooLong("A text chunk is too long for the model.", param="text")
        slot = min(self._free)  # the lowest, to keep the batch small
        self._model.start_sequence(slot, prompt, sampling_row(request.params))
        num_cached = self._load_prefix(slot, request)
        padding = -length % self._prompt_bucket
        self._prefill(min(length + padding, max_positions), num_cached)
        generator = torch.Generator(prompt.device).manual_seed(request.seed)
        max_tokens = min(request.max_tokens, self._spec.max_tokens, room)
        self._sequences[slot] = _Sequence(generator, length, max_tokens)
        self._free.remove(slot)
        return slot

    @torch.inference_mode()
    def step(self, paused: Set[int] = frozenset()) -> dict[int, list[TokenOutput]]:
        """Decode at least one token of each unfinished sequence, except in the slots `paused`."""
        active = {
            slot: sequence
            for slot, sequence in self._sequences.items()
            if not sequence.finish_reason and slot not in paused
        }
        if not active:
            return {}
        steps = self._decode_steps(active)
        return {
            slot: self._outputs(sequence, [tokens[slot] for tokens in steps])
            for slot, sequence in active.items()
        }

    def release(self, slot: int) -> None:
        del self._sequences[slot]
        self._free.add(slot)

    def _load_prefix(self, slot: int, request: T3Request) -> int:
        """Load the voice's part of the prompt into the KV cache; return its length, 0 for none."""
        if not self._caches_prefixes:
            return 0
        key = self._conditioning.key(request)
        length = self._conditioning.embed(*key).shape[1]
        if key not in self._prefix_cache:
            self._prefill(length, 0)
            self._prefix_cache[key] = self._model.export_prefix(slot, length)
            if len(self._prefix_cache) > PREFIX_CACHE_SIZE:
                self._prefix_cache.popitem(last=False)
        self._prefix_cache.move_to_end(key)  # the least recently used is dropped first
        # Even if it was just exported, so that all rows get equal bits.
        self._model.load_prefix(slot, self._prefix_cache[key])
        return length

    def _decode_steps(self, active: dict[int, _Sequence]) -> list[list[int]]:
        """Tokens by step and slot."""
        for slot, sequence in active.items():
            if sequence.num_decoded % self._noise_steps == 0:
                self._model.exp_noise[slot].exponential_(generator=sequence.generator)
            sequence.num_decoded += self._steps_per_sync
        if self._active != list(active):
            self._active = list(active)
            self._model.set_active(active.keys())
        batch_size = _pick_bucket(max(active) + 1, self._batch_buckets)
        kv_len = max(sequence.position for sequence in active.values()) + self._steps_per_sync
        kv_len = _pick_bucket(min(kv_len, self._kv_buckets[-1]), self._kv_buckets)
        tokens = [self._decode(batch_size, kv_len).clone() for _ in range(self._steps_per_sync)]
        steps: list[list[int]] = torch.stack(tokens).tolist()
        return steps

    def _outputs(self, sequence: _Sequence, tokens: list[int]) -> list[TokenOutput]:
        """Outputs of `tokens` up to the end of the sequence."""
        special = self._model.t3.hp
        outputs: list[TokenOutput] = []
        for token in tokens:
            if sequence.finish_reason:
                break
            may_stop = sequence.num_emitted >= self._spec.min_tokens
            sequence.num_emitted += 1
            sequence.position += 1
            sequence.remaining -= 1
            if token == special.stop_speech_token and may_stop:
                sequence.finish_reason = FinishReason.STOP
            elif sequence.remaining == 0:
                sequence.finish_reason = FinishReason.LENGTH
            is_speech = token < special.start_speech_token
            outputs.append(TokenOutput(token if is_speech else None, sequence.finish_reason))
        return outputs


def default_positions(spec: T3Spec) -> int:
    """Positions of the longest voice, text chunk and speech."""
    return _round_up(spec.conditioning_tokens + MAX_TEXT_TOKENS + spec.max_tokens)


def gpu_prompts(spec: T3Spec) -> list[tuple[int, int]]:
    """Warm-up shapes, (length, 0), with captured graphs."""
    longest = _round_up(spec.conditioning_tokens + GPU_MAX_TEXT_TOKENS)
    return [(length, 0) for length in range(longest, 0, -GPU_PROMPT_BUCKET)]


def _round_up(positions: int) -> int:
    return positions + -positions % GPU_PROMPT_BUCKET


def _doubling(first: int, last: int) -> list[int]:
    """`first`, doubled until it would reach `last`, and `last`."""
    buckets = [first]
    while buckets[-1] < last:
        buckets.append(min(2 * buckets[-1], last))
    return buckets


def _pick_bucket(needed: int, buckets: list[int]) -> int:
    """The smallest bucket that is large enough."""
    return next(bucket for bucket in buckets if bucket >= needed)
