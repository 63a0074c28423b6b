import copy
import os
import random
import subprocess
import sys
from dataclasses import replace
from functools import partial

import msgspec
import psutil
import pytest
import torch
import torch.nn.functional as F
from chatterbox.models.t3 import T3
from chatterbox.models.t3.llama_configs import LLAMA_CONFIGS
from chatterbox.models.t3.modules.cond_enc import T3Cond
from chatterbox.tts import punc_norm

from app.bench.checkpoint import full_checkpoint, tiny_sizes
from app.core.errors import EmptyText, TextTooLong
from app.core.params import SynthesisParams
from app.engines.chatterbox.checkpoint.loader import load
from app.engines.chatterbox.t3 import batch as t3
from app.engines.chatterbox.t3 import model as cached_t3
from app.engines.chatterbox.t3 import sampling
from app.engines.chatterbox.t3.batch import (
    ConditioningCache,
    Ending,
    Step,
    T3Batch,
    T3Request,
    embed_prompt,
    max_tokens,
    tokenize,
)
from app.engines.chatterbox.t3.model import T3Model
from app.engines.chatterbox.t3.sampling import guide, penalise

START = 6561

TEXT = "The train to the city was late; we walked home..."

DEFAULTS = SynthesisParams(seed=1)


@pytest.fixture(scope="module")
def model(models):
    return models.t3


@pytest.fixture(scope="module")
def original(upstream):
    """The same weights, loaded by the package itself."""
    return upstream.t3


@pytest.fixture(scope="module")
def request_for(models):
    """`request_for(text, seed=…, max_tokens=…, **params)` with the checkpoint's own voice."""

    def request_for(text=TEXT, seed=1, max_tokens=200, **params):
        wanted = msgspec.structs.replace(DEFAULTS, **params)
        return T3Request(
            tokenize(models.tokenizer, text), models.default_voice, wanted, seed, max_tokens
        )

    return request_for


def advance(batch, slot):
    """All that the job in `slot` has to say, steps shared with whatever else is there."""
    steps = batch.step()[slot]
    while not steps[-1].ending:
        steps += batch.step()[slot]
    return steps


def speak(batch, request):
    slot = batch.admit(request)
    steps = advance(batch, slot)
    batch.release(slot)
    return [step.token for step in steps]


# --- Upstream, for comparison ---------------------------------------------------------------------


def upstreams_inputs(request):
    text = F.pad(F.pad(request.text_tokens, (1, 0), value=255), (0, 1), value=0)
    voice = T3Cond(
        speaker_emb=request.voice.speaker_embedding,
        cond_prompt_speech_tokens=request.voice.prompt_tokens,
        emotion_adv=request.params.voice_exaggeration_factor * torch.ones(1, 1, 1),
    )
    return {"t3_cond": voice, "text_tokens": torch.cat([text, text])}


def upstreams_tokens(original, request):
    """Given two rows, upstream works without guidance too. What is not speech is None."""
    torch.manual_seed(request.seed)
    tokens = original.inference(
        **upstreams_inputs(request),
        max_new_tokens=request.max_tokens,
        temperature=request.params.synthesis_temperature,
        cfg_weight=request.params.cfg_guidance_weight,
        repetition_penalty=request.params.repetition_penalty,
        min_p=request.params.min_p,
        top_p=request.params.top_p,
    )
    return [token if token < START else None for token in tokens[0].tolist()]


@torch.inference_mode()
def upstreams_logits(original, request, tokens):
    """Both rows' logits after the prompt and after each of `tokens`, by one pass over it all."""
    start = torch.full((2, 1), START)
    prompt, _ = original.prepare_input_embeds(
        **upstreams_inputs(request), speech_tokens=start, cfg_weight=0.5
    )
    speech = torch.cat([start, tokens.expand(2, -1)], dim=1)
    embedded = original.speech_emb(speech) + original.speech_pos_emb(speech)
    hidden = original.tfmr(inputs_embeds=torch.cat([prompt, embedded], dim=1)).last_hidden_state
    return original.speech_head(hidden[:, prompt.shape[1] :]).transpose(0, 1)


@torch.inference_mode()
def own_logits(model, request, tokens):
    """The same, step by step, with `tokens` put in place of what is drawn."""
    batch = T3Batch(model, slots=1)
    batch.admit(request)
    cached = batch._model
    logits = [cached.logits(1, 256)]
    for token in tokens:
        cached.token[0] = token
        cached.spoken[0] += 1
        logits.append(cached.logits(1, 256))
    return torch.cat(logits)


def largest_deviation(model, original, request):
    """Of the logits from upstream's over 100 tokens, as a share of their range."""
    tokens = torch.randint(START, (100,), generator=torch.Generator().manual_seed(3))
    theirs = upstreams_logits(original, request, tokens)
    ours = own_logits(model, request, tokens)
    return float((ours - theirs).abs().max() / (theirs.max() - theirs.min()))


def test_logits_are_upstreams(model, original, request_for):
    assert largest_deviation(model, original, request_for()) < 1e-5


def test_logits_are_upstreams_where_heads_share_keys(request_for, monkeypatch):
    with tiny_sizes():
        shared = LLAMA_CONFIGS["Llama_520M"] | {"num_key_value_heads": 1}
        monkeypatch.setitem(LLAMA_CONFIGS, "Llama_520M", shared)
        torch.manual_seed(0)
        model = T3().eval()
    assert largest_deviation(model, model, request_for()) < 1e-5


@pytest.mark.parametrize("guidance", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"synthesis_temperature": 1.5, "min_p": 0.0, "voice_exaggeration_factor": 1.0},
        {"synthesis_temperature": 0.3, "repetition_penalty": 1.0, "top_p": 0.8},
        {"synthesis_temperature": 1.0, "repetition_penalty": 2.0, "top_p": 0.9},
    ],
)
def test_tokens_are_upstreams_given_the_same_random_numbers(
    model, original, request_for, guidance, settings
):
    request = request_for(cfg_guidance_weight=guidance, seed=7, **settings)
    tokens = speak(T3Batch(model, slots=1), request)
    assert tokens == upstreams_tokens(original, request)
    assert 50 < len(tokens) < request.max_tokens  # the end token came


def begin_and_then(change):
    """`T3Model.begin`, with `change(cached, slot)` after it."""

    def begin(cached, slot, *args, original=T3Model.begin):
        original(cached, slot, *args)
        change(cached, slot)

    return begin


def move(cached, slot, length=0, spoken=0):
    cached.length[slot] += length
    cached.spoken[slot] += spoken


def with_prompt(change):
    return lambda model, request, voices: change(embed_prompt(model, request, voices))


MUTATIONS = {
    "start token once": (t3, "embed_prompt", with_prompt(lambda prompt: prompt[:, :-1])),
    "voice cut": (t3, "embed_prompt", with_prompt(lambda prompt: prompt[:, 1:])),
    "text in both rows": (t3, "embed_prompt", with_prompt(lambda prompt: prompt[[0, 0]])),
    "rows swapped": (t3, "embed_prompt", with_prompt(lambda prompt: prompt.flip(0))),
    "speech position one off": (
        T3Model,
        "begin",
        begin_and_then(lambda cached, slot: move(cached, slot, length=-1, spoken=1)),
    ),
    "cache position one off": (
        T3Model,
        "begin",
        begin_and_then(lambda cached, slot: move(cached, slot, length=1)),
    ),
    "not rotated": (cached_t3, "rotate", lambda x, cosine, sine: x),
    "guidance the wrong way": (sampling, "guide", lambda logits, weight: guide(logits, -weight)),
    "no penalty": (sampling, "penalise", lambda scores, seen, penalty: scores),
}
IN_THE_SAMPLER = {"guidance the wrong way", "no penalty"}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_comparing_tokens_notices(model, original, request_for, monkeypatch, mutation):
    monkeypatch.setattr(*MUTATIONS[mutation])
    request = request_for()
    assert speak(T3Batch(model, slots=1), request) != upstreams_tokens(original, request)


@pytest.mark.parametrize("mutation", MUTATIONS.keys() - IN_THE_SAMPLER)
def test_comparing_logits_notices(model, original, request_for, monkeypatch, mutation):
    monkeypatch.setattr(*MUTATIONS[mutation])
    assert largest_deviation(model, original, request_for()) > 1e-3


def without_start(penalise, scores, seen, penalty):
    seen = seen.clone()
    seen[:, START] = False
    return penalise(scores, seen, penalty)


def test_the_start_token_counts_as_said(model, request_for, monkeypatch):
    """It is made likelier than what comes first otherwise; only the penalty holds it back."""
    model, request = copy.deepcopy(model), request_for(repetition_penalty=2.0)
    first = speak(T3Batch(model, slots=1), request)[0]
    model.speech_head.weight[START] = 1.5 * model.speech_head.weight[first]
    assert speak(T3Batch(model, slots=1), request) == upstreams_tokens(model, request)
    monkeypatch.setattr(sampling, "penalise", partial(without_start, penalise))
    assert speak(T3Batch(model, slots=1), request) != upstreams_tokens(model, request)


# --- Voices that were spoken in before ------------------------------------------------------------


def in_voices_of_two(request_for):
    """Two voices and two exaggerations, in turns."""
    first = request_for()
    other = replace(first.voice, speaker_embedding=-first.voice.speaker_embedding)
    second = request_for(voice_exaggeration_factor=1.0)
    return [first, replace(first, voice=other), second, replace(second, voice=other)]


@torch.inference_mode()
def test_a_voice_that_is_remembered_changes_not_a_bit(model, request_for):
    requests = in_voices_of_two(request_for)
    fresh = []
    for request in requests:
        batch = T3Batch(model, slots=4)
        batch.admit(request)
        fresh.append(batch._model.logits(width=2, span=256)[0])
    assert len({tuple(logits.flatten().tolist()) for logits in fresh}) == len(requests)
    batch = T3Batch(model, slots=4)
    for request in requests:
        batch.release(batch.admit(request))
    for request in reversed(requests):  # each in another slot than the first time
        batch.admit(request)
    again = batch._model.logits(width=4, span=256)
    for logits, expected in zip(again, reversed(fresh), strict=True):
        assert torch.equal(logits, expected)


def test_only_a_few_voices_are_remembered(model, request_for, monkeypatch):
    batch, prompts = T3Batch(model, slots=1), []
    compute = T3Model.compute_prompt

    def compute_prompt(cached, length, known):
        prompts.append(known)
        return compute(cached, length, known)

    batch._compute_prompt = partial(compute_prompt, batch._model)
    spoken = [request_for(voice_exaggeration_factor=number / 10) for number in range(1, 7)]
    for request in [*spoken, spoken[-1], spoken[-4], spoken[0], spoken[-4], spoken[-3]]:
        batch.release(batch.admit(request))
    anew = prompts.count(0)
    assert anew == len(spoken) + 2  # of the first and the third last, there was nothing left
    assert len(prompts) == 11 + anew
    assert len(batch._memories) == t3._REMEMBERED


# --- Jobs side by side ----------------------------------------------------------------------------


def jobs(request_for, number):
    return [
        request_for(
            TEXT[: 10 + 7 * (i % 6)],
            seed=i,
            max_tokens=(150, 40, 90)[i % 3],
            cfg_guidance_weight=(0.0, 0.5, 1.0)[i % 3],
            synthesis_temperature=(0.8, 0.3, 1.5, 1.0)[i % 4],
            repetition_penalty=(1.2, 1.0, 2.0)[i % 3],
            min_p=(0.05, 0.0)[i % 2],
            top_p=(1.0, 0.8, 0.9)[i % 3],
        )
        for i in range(number)
    ]


@pytest.fixture(scope="module")
def alone(model, request_for):
    """What each of twelve jobs says when nothing runs beside it."""
    return [speak(T3Batch(model, slots=4), request) for request in jobs(request_for, 12)]


@pytest.mark.parametrize("seed", range(3))
def test_jobs_that_join_and_leave_at_random_say_what_they_say_alone(
    model, request_for, alone, seed
):
    chance = random.Random(seed)
    batch = T3Batch(model, slots=4)
    waiting, running, said = list(enumerate(jobs(request_for, 12))), {}, {}
    cancelled = chance.sample(range(12), 3)
    while waiting or running:
        while waiting and batch.free and chance.random() < 0.1:
            job, request = waiting.pop(0)
            running[batch.admit(request)] = job
            said[job] = []
        for slot, [step] in batch.step().items():
            said[running[slot]].append(step.token)
            gone = running[slot] in cancelled and chance.random() < 0.05
            if step.ending or gone:
                batch.release(slot)
                del running[slot]
    assert batch.free == 4
    for job, tokens in said.items():
        assert tokens == alone[job][: len(tokens)]
        assert len(tokens) == len(alone[job]) or job in cancelled


@torch.inference_mode()
def test_not_a_bit_of_a_jobs_logits_depends_on_what_runs_beside_it(model, request_for):
    request, *others = jobs(request_for, 4)
    lonely, crowded = T3Batch(model, slots=4), T3Batch(model, slots=4)
    lonely.admit(request)
    for other in [*others, request]:
        crowded.admit(other)
    for _ in range(20):
        alone = lonely._model.logits(width=2, span=256)[0]
        assert torch.equal(alone, crowded._model.logits(width=4, span=512)[3])
        assert lonely.step()[0] == crowded.step()[3]


ATTENTION_ON_TWO_THREADS = """
import torch
import torch.nn.functional as F
torch.set_num_threads(2)
torch.manual_seed(0)
query, key, value = (torch.randn(8, 16, n, 64) for n in (1, 256, 256))
seen = (torch.arange(256) < 80)[None]
def attend(rows):
    return F.scaled_dot_product_attention(query[rows], key[rows], value[rows], attn_mask=seen)
print(all(torch.equal(attend(slice(i, i + 4))[0], attend(slice(8))[i]) for i in range(5)))
"""


def test_nor_does_it_with_several_threads_as_workers_are_started():
    """Full size's attention; torch reads the variable once, so in a process of its own."""
    environment = os.environ | {"MKL_CBWR": "AUTO"}
    command = [sys.executable, "-c", ATTENTION_ON_TWO_THREADS]
    assert subprocess.check_output(command, env=environment, text=True) == "True\n"


def test_a_job_that_waits_says_afterwards_what_it_would_have_said(model, request_for):
    patient, other, long_text = [*jobs(request_for, 2), request_for(200 * "ab ", max_tokens=99)]
    alone = speak(T3Batch(model, slots=4), patient)
    batch = T3Batch(model, slots=4)
    slot = batch.admit(patient)
    said = [step.token for _ in range(10) for step in batch.step()[slot]]
    for neighbour in (other, long_text):
        batch.admit(neighbour)
    list(batch.warm_up())
    for _ in range(20):
        assert slot not in batch.step(waiting=frozenset({slot}))
    assert batch.step(waiting=frozenset(range(4))) == {}
    assert said + [step.token for step in advance(batch, slot)] == alone


def test_a_released_slot_is_taken_again_and_remembers_nothing(model, request_for):
    first, second = jobs(request_for, 2)
    batch = T3Batch(model, slots=2)
    fresh = speak(T3Batch(model, slots=2), second)
    slot = batch.admit(first)
    for _ in range(30):
        batch.step()
    batch.release(slot)
    assert batch.free == 2
    assert batch.admit(second) == slot
    assert [step.token for step in advance(batch, slot)] == fresh


def test_the_seed_decides(model, request_for):
    batch = T3Batch(model, slots=1)
    said = [speak(batch, request_for(seed=seed)) for seed in (1, 1, 2)]
    assert said[0] == said[1] != said[2]


# --- The end --------------------------------------------------------------------------------------


def test_the_end_token_ends_a_job_and_is_no_speech(model, request_for):
    batch = T3Batch(model, slots=1)
    slot = batch.admit(request_for())
    steps = advance(batch, slot)
    assert steps[-1] == Step(None, Ending.SPOKEN)
    assert batch.step() == {}


def test_what_is_no_speech_is_fed_back_but_not_handed_on(model, original, request_for):
    request = request_for(synthesis_temperature=5.0, min_p=0.0, max_tokens=60)
    tokens = speak(T3Batch(model, slots=1), request)
    assert None in tokens[:-1]
    assert tokens == upstreams_tokens(original, request)


def test_a_job_that_runs_away_is_cut_and_says_so(model, request_for):
    batch = T3Batch(model, slots=1)
    steps = advance(batch, batch.admit(request_for(max_tokens=12)))
    assert [step.ending for step in steps] == [None] * 11 + [Ending.CUT]
    assert steps[-1].token is not None


@pytest.mark.parametrize(
    ("length", "tokens"), [(1, 32), (10, 101), (100, 785), (128, 997), (129, 1000), (500, 1000)]
)
def test_a_text_may_take_four_times_the_tokens_that_are_usual(length, tokens):
    assert max_tokens("x" * length) == tokens


def test_a_job_that_has_filled_its_cache_is_no_harm_to_its_neighbour(model, request_for):
    patient = request_for(max_tokens=30)
    alone = speak(T3Batch(model, slots=2), patient)
    prompt = embed_prompt(model, patient, ConditioningCache(model)).shape[1]
    batch = T3Batch(model, slots=2, max_positions=prompt + 40)
    slot = batch.admit(patient)
    said = [step for _ in range(5) for step in batch.step()[slot]]
    longer = request_for(TEXT + " " + TEXT[:22])
    full = batch.admit(longer)
    said += advance(batch, slot)
    assert batch._jobs[full].ending is Ending.CUT
    batch.release(full)
    assert [step.token for step in said] == alone
    assert speak(batch, patient) == alone


def test_a_job_never_outgrows_its_cache(model, request_for):
    request = request_for()
    prompt = embed_prompt(model, request, ConditioningCache(model)).shape[1]
    batch = T3Batch(model, slots=1, max_positions=prompt + 16)
    assert len(advance(batch, batch.admit(request))) == 16
    with pytest.raises(TextTooLong):
        T3Batch(model, slots=1, max_positions=prompt).admit(request)


def test_memory_is_taken_as_it_is_needed(model, request_for):
    process = psutil.Process()
    before = process.memory_info().rss
    batch = T3Batch(model, slots=4, max_positions=32_768)
    reserved = 2 * sum(layer.keys.nbytes for layer in batch._model.layers)
    speak(batch, request_for(max_tokens=10))
    assert reserved > 300e6
    assert process.memory_info().rss - before < 50e6


# --- Text -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [TEXT, "hello: world", "Já — “yes”", "你好", "[STOP]"])
def test_text_is_normalised_and_tokenised_as_upstream_does(models, text):
    expected = models.tokenizer.text_to_tokens(punc_norm(text))
    assert torch.equal(tokenize(models.tokenizer, text), expected.long())


@pytest.mark.parametrize("text", ["", " ", "\n\t "])
def test_text_with_nothing_in_it_is_refused(models, text):
    with pytest.raises(EmptyText):
        tokenize(models.tokenizer, text)


# --- Other layers ---------------------------------------------------------------------------------

DEVIATIONS = {"packed": 1e-5, "int8": 0.1, "bfloat16": 0.1}
"""The most that is allowed, as a share of the logits' range."""


@pytest.fixture(scope="module", params=DEVIATIONS)
def variant(request, tiny_checkpoint):
    """A way to load T3, and T3 loaded so."""
    packed = request.param == "packed"
    dtype = "float32" if packed else request.param
    with tiny_sizes():
        return request.param, load(tiny_checkpoint, "cpu", dtype, packed).t3


def test_another_kind_of_layer_computes_nearly_the_same(variant, original, request_for):
    name, model = variant
    assert largest_deviation(model, original, request_for()) < DEVIATIONS[name]


@torch.inference_mode()
def test_with_them_too_no_bit_depends_on_what_runs_beside_a_job(variant, request_for):
    test_not_a_bit_of_a_jobs_logits_depends_on_what_runs_beside_it(variant[1], request_for)


def test_packed_layers_say_the_same_tokens(models, tiny_checkpoint, request_for):
    with tiny_sizes():
        packed = load(tiny_checkpoint, "cpu", packed=True).t3
    for request in jobs(request_for, 4):
        assert speak(T3Batch(packed, slots=1), request) == speak(T3Batch(models.t3, 1), request)


# --- Coarser products, at full size ---------------------------------------------------------------


@torch.inference_mode()
def fed_logits(dtype, tokens):
    """Guided logits, float32 [101, vocabulary], of full size's T3 when `tokens` are put in place of
    what it would say; what it would, and those tokens, if there are none.
    """
    models = load(full_checkpoint(), "cpu", dtype)
    text = tokenize(models.tokenizer, TEXT)
    batch = T3Batch(models.t3, slots=1)
    batch.admit(T3Request(text, models.default_voice, DEFAULTS, 1, 200))
    cached, logits, fed = batch._model, [], []
    for step in range(101):
        logits.append(guide(cached.logits(1, 256), torch.tensor([[0.5]]))[0])
        fed.append(tokens[step] if tokens else int(logits[-1].argmax()))
        cached.token[0] = fed[-1]
        cached.spoken[0] += 1
    return torch.stack(logits), fed


@pytest.mark.heavy
def test_how_far_coarser_weights_are_from_float32():
    right, tokens = fed_logits("float32", [])
    for dtype in ("bfloat16", "int8"):
        logits, _ = fed_logits(dtype, tokens)
        off = float((logits - right).square().mean().sqrt())
        same = int((logits.argmax(-1) == right.argmax(-1)).sum())
        spread = float(right.std())
        print(f"{dtype}: off by {off:.2f} where logits spread by {spread:.2f}, {same} of 101 same")
        assert off < 0.4 * spread
        assert same > 50
