import msgspec
import pytest
import torch
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from app.engines.chatterbox.t3 import sampling
from app.engines.chatterbox.t3.sampling import (
    SamplingTensors,
    apply_cfg,
    apply_top_k,
    apply_top_p,
    sample,
    sample_exponential,
    sampling_row,
)
from app.engines.chatterbox.variants import ENGLISH, TURBO
from tests.engines.chatterbox.t3.reference import DEFAULTS

VOCABULARY = 8194

REQUESTS = [
    msgspec.structs.replace(DEFAULTS, **changes)
    for changes in (
        {},
        {"cfg_guidance_weight": 0.0, "synthesis_temperature": 0.3},
        {
            "cfg_guidance_weight": 3.0,
            "synthesis_temperature": 5.0,
            "min_p": 0.0,
            "repetition_penalty": 3.0,
        },
        {
            "cfg_guidance_weight": 1.0,
            "synthesis_temperature": 1.0,
            "top_p": 0.9,
            "repetition_penalty": 1.0,
        },
        {"synthesis_temperature": 2.0, "min_p": 0.0, "top_p": 0.5, "repetition_penalty": 2.0},
        {"min_p": 1.0},
        {"top_p": 1e-6, "min_p": 0.0},
        {"top_k": 5, "min_p": 0.0},
        {"top_k": 10_000, "min_p": 0.0, "synthesis_temperature": 5.0},
        {"top_k": 30, "top_p": 0.9, "synthesis_temperature": 3.0, "repetition_penalty": 3.0},
    )
]


def random_step(seed):
    """Logits and the tokens generated so far, a row for each of `REQUESTS`."""
    rows = len(REQUESTS)
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(rows, 2, VOCABULARY, generator=generator)
    likely = logits[:, 0].topk(40).indices  # so that the penalty has an effect
    chosen = torch.rand(rows, 40, generator=generator).argsort(1)[:, :20]
    return logits, likely.gather(1, chosen)


def noise_of(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.empty(1, VOCABULARY).exponential_(generator=generator)


def own_tokens(logits, generated, noise, samplers):
    token_seen = torch.zeros(len(logits), VOCABULARY, dtype=torch.bool)
    token_seen.scatter_(1, generated, True)
    params = SamplingTensors.from_rows(torch.stack([sampling_row(row) for row in REQUESTS]))
    return sample(logits, token_seen, params, noise, samplers).tolist()


def upstream_token(logits, generated, params, seed):
    """Upstream's code between two forward passes in `T3.inference`, on one row."""
    cond, uncond = logits[0:1], logits[1:2]
    scores = cond + params.cfg_guidance_weight * (cond - uncond)
    scores = RepetitionPenaltyLogitsProcessor(params.repetition_penalty)(generated[None], scores)
    if params.synthesis_temperature != 1.0:
        scores = scores / params.synthesis_temperature
    scores = MinPLogitsWarper(params.min_p)(generated[None], scores)
    scores = TopPLogitsWarper(params.top_p)(generated[None], scores)
    torch.manual_seed(seed)
    return torch.multinomial(scores.softmax(-1), num_samples=1).item()


def upstream_turbo_token(logits, generated, params, seed):
    """The same in `T3.inference_turbo`, which has no unconditional row."""
    scores = logits[0:1]
    if params.synthesis_temperature != 1.0:
        scores = TemperatureLogitsWarper(params.synthesis_temperature)(generated[None], scores)
    scores = TopKLogitsWarper(params.top_k)(generated[None], scores)
    if params.top_p < 1.0:
        scores = TopPLogitsWarper(params.top_p)(generated[None], scores)
    if params.repetition_penalty != 1.0:
        penalise = RepetitionPenaltyLogitsProcessor(params.repetition_penalty)
        scores = penalise(generated[None], scores)
    torch.manual_seed(seed)
    return torch.multinomial(scores.softmax(-1), num_samples=1).item()


UPSTREAM_TOKEN = {ENGLISH.name: upstream_token, TURBO.name: upstream_turbo_token}


def count_differences(steps=28, spec=ENGLISH, samplers=None):
    """Tokens that differ from upstream's, with all `REQUESTS` in one batch."""
    count = 0
    for step in range(steps):
        logits, generated = random_step(step)
        noise = torch.cat([noise_of(1000 * step + row) for row in range(len(REQUESTS))])
        expected = [
            UPSTREAM_TOKEN[spec.name](logits[row], generated[row], params, 1000 * step + row)
            for row, params in enumerate(REQUESTS)
        ]
        rows = logits[:, : spec.t3.rows_per_sequence]
        tokens = own_tokens(rows, generated, noise, samplers or spec.t3.samplers)
        count += sum(a != b for a, b in zip(tokens, expected, strict=True))
    return count


@pytest.mark.parametrize("spec", [ENGLISH, TURBO], ids=lambda spec: spec.name)
def test_each_row_samples_upstreams_token(spec):
    assert count_differences(spec=spec) == 0


@pytest.mark.parametrize(
    ("function", "mutant"),
    [
        ("apply_cfg", lambda logits, weight: apply_cfg(logits, -weight)),
        ("apply_repetition_penalty", lambda scores, seen, penalty: scores),
        ("apply_min_p", lambda scores, min_p: scores),
        ("apply_top_p", lambda scores, one_minus_top_p: scores),
        ("sample_exponential", lambda probabilities, noise: probabilities.argmax(-1)),
    ],
)
def test_comparison_detects_mutation(monkeypatch, function, mutant):
    monkeypatch.setattr(sampling, function, mutant)
    assert count_differences() > 0


def test_samplers_are_applied_in_the_order_of_the_spec():
    swapped = ("cfg", "repetition_penalty", "min_p", "temperature", "top_p")
    assert count_differences(samplers=swapped) > 0


@pytest.mark.parametrize(
    "samplers",
    [
        ("repetition_penalty", "temperature", "top_k", "top_p"),
        ("temperature", "top_p", "top_k", "repetition_penalty"),
        ("temperature", "top_p", "repetition_penalty"),
    ],
)
def test_comparison_detects_another_order_in_turbo(samplers):
    assert count_differences(10, TURBO, samplers) > 0


def test_top_k_keeps_tokens_as_likely_as_the_last_one():
    scores = torch.tensor([[1.0, 3.0, 2.0, 2.0], [1.0, 3.0, 2.0, 2.0]])
    kept = apply_top_k(scores, torch.tensor([[2.0], [1.0]])).isfinite()
    assert kept.tolist() == [[False, True, True, True], [False, True, False, False]]


@pytest.mark.parametrize("seed", range(5))
def test_exponential_sampling_equals_torch_multinomial(seed):
    probabilities = (3 * torch.randn(1, VOCABULARY)).softmax(-1)
    theirs = torch.Generator().manual_seed(seed)
    own = torch.Generator().manual_seed(seed)
    for _ in range(50):
        noise = torch.empty(VOCABULARY).exponential_(generator=own)
        expected = torch.multinomial(probabilities, 1, generator=theirs)
        assert sample_exponential(probabilities, noise[None]).item() == expected.item()


def test_zero_guidance_returns_the_conditional_logits():
    logits, _ = random_step(0)
    assert torch.equal(apply_cfg(logits, torch.zeros(len(logits), 1)), logits[:, 0])


def test_top_p_keeps_the_most_likely_token():
    scores = torch.tensor([[1.0, 3.0, 2.0]])
    assert apply_top_p(scores, torch.tensor([[1.0]])).softmax(-1).tolist() == [[0.0, 1.0, 0.0]]
