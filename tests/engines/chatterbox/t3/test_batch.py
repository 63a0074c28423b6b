"""Sequences share a batch without influence on each other, and end where they should."""

import os
import random
import subprocess
import sys

import psutil
import pytest

from app.core.errors import TextTooLong
from app.engines.chatterbox.t3.prompt import ConditioningCache, embed_prompt
from app.engines.chatterbox.t3.request import FinishReason, TokenOutput
from app.engines.chatterbox.variants import ENGLISH
from tests.engines.chatterbox.t3.reference import (
    TEXT,
    assert_logits_do_not_depend_on_batch,
    generate,
    new_batch,
    run,
    varied,
)


def prompt_length(t3, request):
    return embed_prompt(t3, ENGLISH.t3, request, ConditioningCache(t3)).shape[1]


# --- Sequences side by side -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone(t3, request_for):
    """The tokens of twelve requests, each generated alone."""
    return [generate(new_batch(t3, slots=4), request) for request in varied(request_for, 12)]


@pytest.mark.parametrize("seed", range(2))
def test_tokens_do_not_depend_on_sequences_that_join_and_leave(t3, request_for, alone, seed):
    rng = random.Random(seed)
    batch = new_batch(t3, slots=4)
    queued, running, tokens = list(enumerate(varied(request_for, 12))), {}, {}
    cancelled = rng.sample(range(12), 3)
    while queued or running:
        while queued and batch.free and rng.random() < 0.1:
            job, request = queued.pop(0)
            running[batch.admit(request)] = job
            tokens[job] = []
        for slot, [output] in batch.step().items():
            tokens[running[slot]].append(output.token)
            cancel = running[slot] in cancelled and rng.random() < 0.05
            if output.finish_reason or cancel:
                batch.release(slot)
                del running[slot]
    assert batch.free == 4
    for job, generated in tokens.items():
        assert generated == alone[job][: len(generated)]
        assert len(generated) == len(alone[job]) or job in cancelled


def test_logits_do_not_depend_on_the_batch(t3, request_for):
    assert_logits_do_not_depend_on_batch(t3, request_for)


ATTENTION_ON_TWO_THREADS = """
import torch
import torch.nn.functional as F
torch.set_num_threads(2)
torch.manual_seed(0)
query, key, value = (torch.randn(8, 16, n, 64) for n in (1, 256, 256))
mask = (torch.arange(256) < 80)[None]
def attend(rows):
    return F.scaled_dot_product_attention(query[rows], key[rows], value[rows], attn_mask=mask)
print(all(
    torch.equal(attend(slice(i, i + size))[0], attend(slice(8))[i])
    for size in (1, 2, 4) for i in range(9 - size)
))
"""


@pytest.mark.heavy
def test_attention_does_not_depend_on_the_batch_with_several_threads():
    """At full size, in a process of its own since torch reads the variable only once."""
    environment = os.environ | {"MKL_CBWR": "AUTO"}
    command = [sys.executable, "-c", ATTENTION_ON_TWO_THREADS]
    assert subprocess.check_output(command, env=environment, text=True) == "True\n"


def test_pausing_a_sequence_does_not_change_its_tokens(t3, request_for):
    request, other = varied(request_for, 2)
    long_text = request_for(200 * "ab ", max_tokens=99)
    alone = generate(new_batch(t3, slots=4), request)
    batch = new_batch(t3, slots=4)
    slot = batch.admit(request)
    tokens = [output.token for _ in range(10) for output in batch.step()[slot]]
    for neighbour in (other, long_text):
        batch.admit(neighbour)
    list(batch.warm_up())
    for _ in range(20):
        assert slot not in batch.step(paused=frozenset({slot}))
    assert batch.step(paused=frozenset(range(4))) == {}
    assert tokens + [output.token for output in run(batch, slot)] == alone


def test_released_slot_is_reused_without_traces(t3, request_for):
    first, second = varied(request_for, 2)
    batch = new_batch(t3, slots=2)
    fresh = generate(new_batch(t3, slots=2), second)
    slot = batch.admit(first)
    for _ in range(30):
        batch.step()
    batch.release(slot)
    assert batch.free == 2
    assert batch.admit(second) == slot
    assert [output.token for output in run(batch, slot)] == fresh


def test_tokens_depend_on_the_seed(t3, request_for):
    batch = new_batch(t3, slots=1)
    tokens = [generate(batch, request_for(seed=seed)) for seed in (1, 1, 2)]
    assert tokens[0] == tokens[1] != tokens[2]


# --- The end of a sequence ------------------------------------------------------------------------


def test_stop_token_ends_the_sequence_and_is_no_speech(t3, request_for):
    batch = new_batch(t3, slots=1)
    outputs = run(batch, batch.admit(request_for()))
    assert outputs[-1] == TokenOutput(None, FinishReason.STOP)
    assert batch.step() == {}


def test_length_limit_ends_the_sequence(t3, request_for):
    batch = new_batch(t3, slots=1)
    outputs = run(batch, batch.admit(request_for(max_tokens=12)))
    assert [output.finish_reason for output in outputs] == [None] * 11 + [FinishReason.LENGTH]
    assert outputs[-1].token is not None


def test_sequence_with_full_kv_cache_does_not_affect_its_neighbour(t3, request_for):
    request = request_for(max_tokens=30)
    alone = generate(new_batch(t3, slots=2), request)
    batch = new_batch(t3, slots=2, max_positions=prompt_length(t3, request) + 40)
    slot = batch.admit(request)
    outputs = [output for _ in range(5) for output in batch.step()[slot]]
    full = batch.admit(request_for(TEXT + " " + TEXT[:22]))
    outputs += run(batch, slot)
    assert batch._sequences[full].finish_reason is FinishReason.LENGTH
    batch.release(full)
    assert [output.token for output in outputs] == alone
    assert generate(batch, request) == alone


def test_sequence_ends_when_its_kv_cache_is_full(t3, request_for):
    request = request_for()
    length = prompt_length(t3, request)
    batch = new_batch(t3, slots=1, max_positions=length + 16)
    assert len(run(batch, batch.admit(request))) == 16
    with pytest.raises(TextTooLong):
        new_batch(t3, slots=1, max_positions=length).admit(request)


def test_kv_cache_takes_memory_only_when_used(t3, request_for):
    process = psutil.Process()
    before = process.memory_info().rss
    batch = new_batch(t3, slots=4, max_positions=32_768)
    reserved = 2 * sum(layer.keys.nbytes for layer in batch._model.backbone.layers)
    generate(batch, request_for(max_tokens=10))
    assert reserved > 300e6
    assert process.memory_info().rss - before < 50e6
