"""Turbo's logits and tokens equal upstream's, and mutations are noticed."""

import copy
import random
from dataclasses import replace

import pytest
import torch
from chatterbox.models.t3 import T3

from app.engines.chatterbox.checkpoint.t3_config import t3_config
from app.engines.chatterbox.runtime.compilation import TorchCompiler
from app.engines.chatterbox.runtime.linear import (
    Int8Linear,
    PackedLinear,
    convert_linears_to_bf16,
    replace_linears,
)
from app.engines.chatterbox.t3 import batch as batch_module
from app.engines.chatterbox.t3 import gpt2, sampling
from app.engines.chatterbox.t3.batch import default_positions
from app.engines.chatterbox.t3.prompt import embed_prompt
from app.engines.chatterbox.t3.request import FinishReason
from app.engines.chatterbox.variants import ENGLISH, NANO, TURBO
from tests.engines.chatterbox.t3 import reference
from tests.engines.chatterbox.t3.conftest import TINY_TURBO
from tests.engines.chatterbox.t3.reference import (
    START,
    TEXT,
    assert_logits_do_not_depend_on_batch,
    logit_error,
    new_batch,
    run,
    upstream_turbo_tokens,
)
from tests.support.few_shapes import FewShapes

STOP = START + 1


def generate(t3, request, slots=1, spec=TINY_TURBO):
    return reference.generate(new_batch(t3, slots, spec, max_positions=384), request)


@pytest.mark.parametrize("longest_voice", [False, True])
def test_logits_equal_upstreams(turbo, upstream_turbo, turbo_request_for, longest_voice):
    request = turbo_request_for(longest_voice=longest_voice)
    assert logit_error(turbo, upstream_turbo, request, TINY_TURBO) < 1e-5


SETTINGS = [
    {},
    {"synthesis_temperature": 1.5, "top_k": 5, "top_p": 1.0},
    {"synthesis_temperature": 0.3, "repetition_penalty": 1.0, "top_p": 0.8},
    {"synthesis_temperature": 1.0, "repetition_penalty": 2.0, "top_p": 0.9, "top_k": 10_000},
    {"top_k": 1},
]


@pytest.mark.parametrize("params", SETTINGS)
def test_tokens_equal_upstreams_with_the_same_random_numbers(
    turbo, upstream_turbo, turbo_request_for, params
):
    request = turbo_request_for(seed=7, **params)
    tokens = generate(turbo, request)
    assert tokens == upstream_turbo_tokens(upstream_turbo, request)
    assert 10 < len(tokens) < request.max_tokens  # it ended with the stop token


def test_parameters_of_guidance_change_nothing(turbo, turbo_request_for):
    unused = {"cfg_guidance_weight": 3.0, "voice_exaggeration_factor": 2.0, "min_p": 1.0}
    assert generate(turbo, turbo_request_for(**unused)) == generate(turbo, turbo_request_for())


def test_special_tokens_are_fed_back_but_not_returned(turbo, upstream_turbo, turbo_request_for):
    params = {"synthesis_temperature": 5.0, "top_p": 1.0, "top_k": 10_000, "max_tokens": 60}
    turbo, upstream_turbo = (with_bias(t3, START, 30.0) for t3 in (turbo, upstream_turbo))
    request = turbo_request_for(**params)
    tokens = generate(turbo, request)
    assert None in tokens[:-1]
    assert tokens == upstream_turbo_tokens(upstream_turbo, request)


def with_bias(t3, token, bias):
    t3 = copy.deepcopy(t3)
    t3.speech_head.bias[token] = bias
    return t3


@pytest.mark.parametrize("max_tokens", [2, 3, 12])
def test_stop_token_does_not_end_the_speech_at_once(
    turbo, upstream_turbo, turbo_request_for, max_tokens
):
    turbo, upstream_turbo = (with_bias(t3, STOP, 1000.0) for t3 in (turbo, upstream_turbo))
    request = turbo_request_for(max_tokens=max_tokens)
    assert generate(turbo, request) == [None, None]
    assert upstream_turbo_tokens(upstream_turbo, request)[:2] == [None, None]
    impatient = replace(TINY_TURBO, min_tokens=0)
    assert generate(turbo, request, spec=impatient) == [None]


def test_length_limit_equals_upstreams(turbo, upstream_turbo, turbo_request_for):
    request = turbo_request_for(max_tokens=12)
    batch = new_batch(turbo, 1, TINY_TURBO)
    outputs = run(batch, batch.admit(request))
    assert outputs[-1].finish_reason is FinishReason.LENGTH
    assert [output.token for output in outputs] == upstream_turbo_tokens(upstream_turbo, request)


def test_tokens_do_not_depend_on_sequences_that_join_and_leave(turbo, turbo_request_for):
    """Nor on the parameters of the others."""
    rng = random.Random(0)
    requests = [
        turbo_request_for(
            TEXT[: 10 + 5 * number],
            seed=number,
            max_tokens=(20, 9)[number % 2],
            synthesis_temperature=(0.8, 1.5, 1.0)[number % 3],
            repetition_penalty=(1.2, 1.0, 2.0)[number % 3],
            top_k=(1000, 5, 40)[number % 3],
            top_p=(0.95, 1.0)[number % 2],
        )
        for number in range(5)
    ]
    batch = new_batch(turbo, 4, TINY_TURBO)
    queued, running, tokens = list(enumerate(requests)), {}, {}
    while queued or running:
        while queued and batch.free and rng.random() < 0.2:
            job, request = queued.pop(0)
            running[batch.admit(request)] = job
            tokens[job] = []
        for slot, [output] in batch.step().items():
            tokens[running[slot]].append(output.token)
            if output.finish_reason:
                batch.release(slot)
                del running[slot]
    for job, request in enumerate(requests):
        assert tokens[job] == generate(turbo, request, slots=4)


def test_voice_is_prefilled_once(turbo, turbo_request_for):
    """Also with another exaggeration, which means nothing to Turbo."""
    batch = new_batch(turbo, 4, TINY_TURBO)
    for exaggeration in (0.5, 1.0):
        batch.admit(turbo_request_for(voice_exaggeration_factor=exaggeration))
    assert len(batch._prefix_cache) == 1


def test_start_token_is_penalised_for_the_first_token_only(
    turbo, upstream_turbo, turbo_request_for
):
    """The start token is so likely that the penalty decides."""
    request = turbo_request_for(repetition_penalty=3.0, top_p=1.0, max_tokens=20)
    turbo, upstream_turbo = (with_bias(t3, START, 30.0) for t3 in (turbo, upstream_turbo))
    expected = upstream_turbo_tokens(upstream_turbo, request)
    assert generate(turbo, request) == expected
    assert None in expected[:-1]
    remembering = replace(TINY_TURBO, forgets_start_token=False)
    assert generate(turbo, request, spec=remembering) != expected


# --- Mutations ------------------------------------------------------------------------------------


def with_prompt(change):
    return lambda *args: change(embed_prompt(*args))


def shifted_positions(self, x, rows, positions, kv_range, original=gpt2.GPT2Backbone.forward):
    self.position_embedding.weight.data = self.position_embedding.weight.roll(1, 0)
    try:
        return original(self, x, rows, positions, kv_range)
    finally:
        self.position_embedding.weight.data = self.position_embedding.weight.roll(-1, 0)


PROMPT = batch_module, "embed_prompt"
MUTATIONS = {
    "start token twice": (
        *PROMPT,
        lambda t3, spec, *args: embed_prompt(t3, replace(spec, start_tokens=2), *args),
    ),
    "speaker cut": (*PROMPT, with_prompt(lambda prompt: prompt[:, 1:])),
    "prompt speech cut": (
        *PROMPT,
        with_prompt(lambda prompt: prompt[:, [0, *range(2, prompt.shape[1])]]),
    ),
    "positions shifted": (gpt2.GPT2Backbone, "forward", shifted_positions),
    "no penalty": (sampling, "apply_repetition_penalty", lambda scores, seen, penalty: scores),
    "no top_p": (sampling, "apply_top_p", lambda scores, one_minus_top_p: scores),
}
SAMPLER_MUTATIONS = {"no penalty", "no top_p"}


@pytest.fixture(scope="module")
def upstream_usual_tokens(upstream_turbo, turbo_request_for):
    return upstream_turbo_tokens(upstream_turbo, turbo_request_for())


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_comparing_tokens_detects_mutation(
    turbo, turbo_request_for, upstream_usual_tokens, monkeypatch, mutation
):
    monkeypatch.setattr(*MUTATIONS[mutation])
    assert generate(turbo, turbo_request_for()) != upstream_usual_tokens


@pytest.mark.parametrize("mutation", sorted(MUTATIONS.keys() - SAMPLER_MUTATIONS))
def test_comparing_logits_detects_mutation(
    turbo, upstream_turbo, turbo_request_for, monkeypatch, mutation
):
    monkeypatch.setattr(*MUTATIONS[mutation])
    assert logit_error(turbo, upstream_turbo, turbo_request_for(), TINY_TURBO, 20) > 1e-3


def test_comparing_tokens_detects_penalty_before_filtering(
    turbo, upstream_turbo, turbo_request_for
):
    english = ("repetition_penalty", "temperature", "top_k", "top_p")
    request = turbo_request_for(seed=7, top_p=0.8)
    tokens = generate(turbo, request, spec=replace(TINY_TURBO, samplers=english))
    assert tokens != upstream_turbo_tokens(upstream_turbo, request)
    assert generate(turbo, request) == upstream_turbo_tokens(upstream_turbo, request)


# --- Other linear layers --------------------------------------------------------------------------


def packed(t3, file):
    replace_linears(t3, PackedLinear, file, "tfmr.", "speech_head")


def int8(t3, file):
    replace_linears(t3, Int8Linear, file, "tfmr.", "speech_head")


def bfloat16(t3, file):
    convert_linears_to_bf16(t3.tfmr)


MAX_ERRORS = {packed: 1e-5, int8: 0.1, bfloat16: 0.1}


@pytest.fixture(scope="module", params=MAX_ERRORS, ids=lambda convert: convert.__name__)
def converted(request, load_turbo, turbo_file):
    t3 = load_turbo()
    request.param(t3, turbo_file)
    return request.param, t3


def test_converted_layers_compute_nearly_the_same(converted, upstream_turbo, turbo_request_for):
    convert, t3 = converted
    error = logit_error(t3, upstream_turbo, turbo_request_for(), TINY_TURBO)
    assert error < MAX_ERRORS[convert]


def test_logits_of_converted_layers_do_not_depend_on_the_batch(converted, turbo_request_for):
    assert_logits_do_not_depend_on_batch(converted[1], turbo_request_for, TINY_TURBO)


def test_logits_do_not_depend_on_the_batch(turbo, turbo_request_for):
    assert_logits_do_not_depend_on_batch(turbo, turbo_request_for, TINY_TURBO)


# --- Static shapes and compilation ----------------------------------------------------------------


def test_static_shapes_give_the_same_tokens(turbo, turbo_request_for):
    """The noise is drawn in larger blocks, so the most likely tokens are compared."""
    request = turbo_request_for(top_k=1, max_tokens=30)
    batch = new_batch(turbo, 3, TINY_TURBO, capturer=FewShapes())
    batch.admit(turbo_request_for(TEXT[:20], seed=3))
    assert reference.generate(batch, request) == generate(turbo, request, slots=4)


@pytest.mark.heavy
def test_compiled_modules_give_the_same_tokens_and_are_shared(turbo, turbo_request_for):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    torch._dynamo.reset()
    compiler = TorchCompiler(backend)
    compiler.bind_thread()
    batch = new_batch(turbo, 1, TINY_TURBO, compiler=compiler, max_positions=256)
    list(batch.warm_up())
    assert len(graphs) == 4  # two modules, each for one token and for a prompt
    for request in (turbo_request_for(max_tokens=12), turbo_request_for(TEXT[:9], max_tokens=9)):
        assert reference.generate(batch, request) == generate(turbo, request)
    assert len(graphs) == 4
    torch._dynamo.reset()


# --- Full size ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("spec", "tensors", "millions"), [(TURBO, 299, 478), (NANO, 155, 217)])
def test_size_equals_that_of_the_real_checkpoint(spec, tensors, millions):
    with torch.device("meta"):
        weights = T3(t3_config(spec.t3)).state_dict()
    assert len(weights) == tensors
    assert sum(weight.numel() for weight in weights.values()) // 10**6 == millions


def test_kv_cache_has_room_for_the_longest_prompt_and_speech():
    assert default_positions(ENGLISH.t3) == 1344
    assert default_positions(TURBO.t3) == 1728
