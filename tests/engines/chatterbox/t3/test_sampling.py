import msgspec
import pytest
import torch
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TopPLogitsWarper,
)

from app.engines.chatterbox.t3 import sampling
from app.engines.chatterbox.t3.sampling import (
    Controls,
    controls_row,
    draw,
    drop_tail,
    guide,
    sample,
)
from tests.engines.chatterbox.t3.test_batch import DEFAULTS

VOCABULARY = 8194

SETTINGS = [
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
]


def params(**changes):
    return msgspec.structs.replace(DEFAULTS, **changes)


def a_step(seed):
    """Logits and the tokens so far, a row for each of `SETTINGS`."""
    rows = len(SETTINGS)
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(rows, 2, VOCABULARY, generator=generator)
    likely = logits[:, 0].topk(40).indices  # so that the penalty has something to do
    chosen = torch.rand(rows, 40, generator=generator).argsort(1)[:, :20]
    return logits, likely.gather(1, chosen)


def noise_of(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.empty(1, VOCABULARY).exponential_(generator=generator)


def ours(logits, so_far, settings, noise):
    seen = torch.zeros(len(logits), VOCABULARY, dtype=torch.bool).scatter_(1, so_far, True)
    table = torch.stack([controls_row(params(**setting)) for setting in settings])
    return sample(logits, seen, Controls.from_table(table), noise).tolist()


def upstreams(logits, so_far, setting, seed):
    """What `T3.inference` does between two forward passes, on one row."""
    wanted = params(**setting)
    cond, uncond = logits[0:1], logits[1:2]
    scores = cond + wanted.cfg_guidance_weight * (cond - uncond)
    scores = RepetitionPenaltyLogitsProcessor(wanted.repetition_penalty)(so_far[None], scores)
    if wanted.synthesis_temperature != 1.0:
        scores = scores / wanted.synthesis_temperature
    scores = MinPLogitsWarper(wanted.min_p)(so_far[None], scores)
    scores = TopPLogitsWarper(wanted.top_p)(so_far[None], scores)
    torch.manual_seed(seed)
    return torch.multinomial(scores.softmax(-1), num_samples=1).item()


def disagreements(steps=40):
    """Draws that differ from upstream's, of `steps` in which all settings share one batch."""
    count = 0
    for step in range(steps):
        logits, so_far = a_step(step)
        noise = torch.cat([noise_of(1000 * step + row) for row in range(len(SETTINGS))])
        expected = [
            upstreams(logits[row], so_far[row], setting, 1000 * step + row)
            for row, setting in enumerate(SETTINGS)
        ]
        drawn = ours(logits, so_far, SETTINGS, noise)
        count += sum(a != b for a, b in zip(drawn, expected, strict=True))
    return count


def test_every_row_draws_what_upstream_draws_with_its_settings_and_noise():
    assert disagreements() == 0


@pytest.mark.parametrize(
    ("step", "mutant"),
    [
        ("guide", lambda logits, weight: guide(logits, -weight)),
        ("penalise", lambda scores, seen, penalty: scores),
        ("drop_unlikely", lambda scores, min_p: scores),
        ("drop_tail", lambda scores, tail: scores),
        ("draw", lambda probabilities, noise: probabilities.argmax(-1)),
    ],
)
def test_no_part_of_it_can_be_wrong_unnoticed(monkeypatch, step, mutant):
    monkeypatch.setattr(sampling, step, mutant)
    assert disagreements() > 0


@pytest.mark.parametrize("seed", range(5))
def test_a_draw_is_torch_multinomial_with_the_noise_made_visible(seed):
    probabilities = (3 * torch.randn(1, VOCABULARY)).softmax(-1)
    theirs = torch.Generator().manual_seed(seed)
    own = torch.Generator().manual_seed(seed)
    for _ in range(50):
        noise = torch.empty(VOCABULARY).exponential_(generator=own)
        expected = torch.multinomial(probabilities, 1, generator=theirs)
        assert draw(probabilities, noise[None]).item() == expected.item()


def test_without_guidance_only_the_conditional_logits_count():
    logits, _ = a_step(0)
    assert torch.equal(guide(logits, torch.zeros(len(logits), 1)), logits[:, 0])


def test_the_likeliest_token_survives_every_top_p():
    scores = torch.tensor([[1.0, 3.0, 2.0]])
    assert drop_tail(scores, torch.tensor([[1.0]])).softmax(-1).tolist() == [[0.0, 1.0, 0.0]]
