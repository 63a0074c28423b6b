"""T3's logits and tokens equal upstream's, and mutations of the model are noticed."""

import copy
from dataclasses import replace

import msgspec
import pytest
import torch
from chatterbox.models.t3 import T3
from chatterbox.models.t3.llama_configs import LLAMA_CONFIGS

from app.bench.checkpoint import full_checkpoint, tiny_sizes
from app.engines.chatterbox.checkpoint.loader import load
from app.engines.chatterbox.frontend.english import EnglishFrontend
from app.engines.chatterbox.t3 import batch as batch_module
from app.engines.chatterbox.t3 import llama, sampling
from app.engines.chatterbox.t3.model import T3Model
from app.engines.chatterbox.t3.prompt import embed_prompt
from app.engines.chatterbox.t3.request import T3Request
from app.engines.chatterbox.t3.sampling import apply_cfg, apply_repetition_penalty
from app.engines.chatterbox.variants import ENGLISH
from tests.engines.chatterbox.t3.reference import (
    DEFAULTS,
    START,
    TEXT,
    assert_logits_do_not_depend_on_batch,
    generate,
    logit_error,
    new_batch,
    upstream_tokens,
    varied,
)


def test_logits_equal_upstreams(t3, upstream_t3, request_for):
    assert logit_error(t3, upstream_t3, request_for()) < 1e-5


def test_logits_equal_upstreams_with_grouped_query_attention(request_for, monkeypatch):
    with tiny_sizes():
        grouped = LLAMA_CONFIGS["Llama_520M"] | {"num_key_value_heads": 1}
        monkeypatch.setitem(LLAMA_CONFIGS, "Llama_520M", grouped)
        torch.manual_seed(0)
        t3 = T3().eval()
    assert logit_error(t3, t3, request_for()) < 1e-5


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"cfg_guidance_weight": 0.0, "synthesis_temperature": 1.5, "min_p": 0.0},
        {"synthesis_temperature": 0.3, "repetition_penalty": 1.0, "top_p": 0.8},
        {"cfg_guidance_weight": 1.0, "synthesis_temperature": 1.0, "repetition_penalty": 2.0}
        | {"top_p": 0.9, "voice_exaggeration_factor": 1.0},
    ],
)
def test_tokens_equal_upstreams_with_the_same_random_numbers(t3, upstream_t3, request_for, params):
    request = request_for(seed=7, **params)
    tokens = generate(new_batch(t3, slots=1), request)
    assert tokens == upstream_tokens(upstream_t3, request)
    assert 25 < len(tokens) < request.max_tokens  # it ended with the stop token


def test_special_tokens_are_fed_back_but_not_returned(t3, upstream_t3, request_for):
    request = request_for(synthesis_temperature=5.0, min_p=0.0, max_tokens=60)
    tokens = generate(new_batch(t3, slots=1), request)
    assert None in tokens[:-1]
    assert tokens == upstream_tokens(upstream_t3, request)


def test_sequence_of_one_row_equals_zero_guidance(t3, request_for):
    """As a variant without classifier-free guidance decodes it."""
    spec = replace(ENGLISH.t3, rows_per_sequence=1, samplers=ENGLISH.t3.samplers[1:])
    requests = varied(request_for, 3)
    batch = new_batch(t3, slots=3, spec=spec)
    for request in requests:
        unguided = replace(request, params=without_guidance(request.params))
        expected = generate(new_batch(t3, slots=3), unguided)
        assert generate(batch, request) == expected


def without_guidance(params):
    return msgspec.structs.replace(params, cfg_guidance_weight=0.0)


# --- Mutations ------------------------------------------------------------------------------------


def start_sequence_then(change):
    """`T3Model.start_sequence`, with `change(model, slot)` after it."""

    def start_sequence(model, slot, *args, original=T3Model.start_sequence):
        original(model, slot, *args)
        change(model, slot)

    return start_sequence


def shift(model, slot, prompt_len=0, num_generated=0):
    model.prompt_len[slot] += prompt_len
    model.num_generated[slot] += num_generated


def with_prompt(change):
    return lambda *args: change(embed_prompt(*args))


PROMPT = batch_module, "embed_prompt"
MUTATIONS = {
    "start token once": (*PROMPT, with_prompt(lambda prompt: prompt[:, :-1])),
    "conditioning cut": (*PROMPT, with_prompt(lambda prompt: prompt[:, 1:])),
    "text in both rows": (*PROMPT, with_prompt(lambda prompt: prompt[[0, 0]])),
    "rows swapped": (*PROMPT, with_prompt(lambda prompt: prompt.flip(0))),
    "speech position one off": (
        T3Model,
        "start_sequence",
        start_sequence_then(lambda model, slot: shift(model, slot, prompt_len=-1, num_generated=1)),
    ),
    "cache position one off": (
        T3Model,
        "start_sequence",
        start_sequence_then(lambda model, slot: shift(model, slot, prompt_len=1)),
    ),
    "not rotated": (llama, "rotate", lambda x, cosine, sine: x),
    "negative guidance": (
        sampling,
        "apply_cfg",
        lambda logits, weight: apply_cfg(logits, -weight),
    ),
    "no penalty": (sampling, "apply_repetition_penalty", lambda scores, seen, penalty: scores),
}
SAMPLER_MUTATIONS = {"negative guidance", "no penalty"}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_comparing_tokens_detects_mutation(t3, upstream_t3, request_for, monkeypatch, mutation):
    monkeypatch.setattr(*MUTATIONS[mutation])
    request = request_for()
    assert generate(new_batch(t3, slots=1), request) != upstream_tokens(upstream_t3, request)


@pytest.mark.parametrize("mutation", sorted(MUTATIONS.keys() - SAMPLER_MUTATIONS))
def test_comparing_logits_detects_mutation(t3, upstream_t3, request_for, monkeypatch, mutation):
    monkeypatch.setattr(*MUTATIONS[mutation])
    assert logit_error(t3, upstream_t3, request_for()) > 1e-3


def without_start(scores, token_seen, penalty):
    token_seen = token_seen.clone()
    token_seen[:, START] = False
    return apply_repetition_penalty(scores, token_seen, penalty)


def test_start_token_is_penalised(t3, request_for, monkeypatch):
    """Make the start token likelier than the first token sampled, so that it needs the penalty."""
    t3, request = copy.deepcopy(t3), request_for(repetition_penalty=2.0)
    first = generate(new_batch(t3, slots=1), request)[0]
    t3.speech_head.weight[START] = 1.5 * t3.speech_head.weight[first]
    assert generate(new_batch(t3, slots=1), request) == upstream_tokens(t3, request)
    monkeypatch.setattr(sampling, "apply_repetition_penalty", without_start)
    assert generate(new_batch(t3, slots=1), request) != upstream_tokens(t3, request)


# --- Other linear layers --------------------------------------------------------------------------

MAX_ERRORS = {"packed": 1e-5, "int8": 0.1, "bfloat16": 0.1}
"""As shares of the logits' range."""


@pytest.fixture(scope="module", params=MAX_ERRORS)
def converted(request, tiny_checkpoint):
    """The name of a conversion, and T3 loaded with it."""
    packed = request.param == "packed"
    dtype = "float32" if packed else request.param
    with tiny_sizes():
        return request.param, load(tiny_checkpoint, "cpu", dtype, packed).t3


def test_converted_layers_compute_nearly_the_same(converted, upstream_t3, request_for):
    name, t3 = converted
    assert logit_error(t3, upstream_t3, request_for()) < MAX_ERRORS[name]


def test_logits_of_converted_layers_do_not_depend_on_the_batch(converted, request_for):
    assert_logits_do_not_depend_on_batch(converted[1], request_for)


def test_packed_layers_give_the_same_tokens(t3, tiny_checkpoint, request_for):
    with tiny_sizes():
        packed = load(tiny_checkpoint, "cpu", packed=True).t3
    for request in varied(request_for, 2):
        assert generate(new_batch(packed, 1), request) == generate(new_batch(t3, 1), request)


@torch.inference_mode()
def full_size_logits(dtype, tokens):
    """Guided logits, float32 [101, vocabulary], of full size's T3, and the tokens fed to it:
    `tokens`, or the most likely ones if there are none.
    """
    models = load(full_checkpoint(), "cpu", dtype)
    text = EnglishFrontend(models.tokenizer).tokenize(TEXT)
    batch = new_batch(models.t3, slots=1)
    batch.admit(T3Request(text, models.default_voice, DEFAULTS, 1, 200))
    model, logits, fed = batch._model, [], []
    for step in range(101):
        logits.append(apply_cfg(model.logits(1, 256), torch.tensor([[0.5]]))[0])
        fed.append(tokens[step] if tokens else int(logits[-1].argmax()))
        model.next_token[0] = fed[-1]
        model.num_generated[0] += 1
    return torch.stack(logits), fed


@pytest.mark.heavy
def test_error_of_coarser_weights_at_full_size():
    expected, tokens = full_size_logits("float32", [])
    for dtype in ("bfloat16", "int8"):
        logits, _ = full_size_logits(dtype, tokens)
        error = float((logits - expected).square().mean().sqrt())
        same = int((logits.argmax(-1) == expected.argmax(-1)).sum())
        spread = float(expected.std())
        print(f"{dtype}: RMS error {error:.2f}, logits' spread {spread:.2f}, {same} of 101 same")
        assert error < 0.4 * spread
        assert same > 50
