from dataclasses import dataclass, replace
from itertools import count

import pytest
import torch

from app.bench.checkpoint import tiny_sizes
from app.engines.chatterbox.checkpoint.loader import load
from app.engines.chatterbox.conditioning.conditionals import S3GenReference
from app.engines.chatterbox.s3gen import flow as flow_module
from app.engines.chatterbox.s3gen.estimator import EulerStep
from app.engines.chatterbox.s3gen.flow import Flow, Solve
from app.engines.chatterbox.s3gen.noise import Noise, Use
from tests.support.few_shapes import FewShapes
from tests.support.speech import CPU, mel_error, speech_tokens, upstreams_mel

CLOSE = 1e-4  # of the mel's range
NOISE = Noise(1, 0, CPU)


@dataclass(frozen=True)
class Case:
    """One solve, all that it depends on."""

    flow: Flow
    tokens: torch.Tensor
    reference: S3GenReference
    noise: torch.Tensor

    @torch.inference_mode()
    def mel(self, on_step=lambda: None):
        [mel] = self.flow.solve([Solve(self.tokens, self.reference, self.noise)], on_step)
        return mel


@pytest.fixture(scope="module")
def case(models):
    """60 tokens, 2.4 s, after a prompt of 50."""
    reference = models.default_voice.s3gen
    noise = NOISE.frames(Use.FLOW, 0, 2 * (50 + 60), 80)
    return Case(Flow(models.s3gen.flow), speech_tokens(60), reference, noise)


@pytest.fixture(scope="module")
def right(case, upstream):
    return upstreams_mel(upstream.s3gen, case.tokens, case.reference, NOISE)


def test_the_mel_is_upstreams(case, right):
    mel = case.mel()

    assert mel.shape == (80, 120)
    assert mel_error(mel, right) < CLOSE


@pytest.fixture(scope="module")
def packed(tiny_checkpoint):
    with tiny_sizes():
        return Flow(load(tiny_checkpoint, "cpu", packed=True).s3gen.flow)


def test_with_the_cpus_own_layers_it_is_upstreams_too(packed, case, right):
    mel = replace(case, flow=packed).mel()

    assert mel_error(mel, right) < CLOSE


def with_guidance(case, guidance):
    flow = Flow(case.flow._flow)
    flow.step = EulerStep(case.flow._flow.decoder.estimator, guidance)
    return replace(case, flow=flow)


def with_one_other_token(case):
    tokens = case.tokens.clone()
    tokens[30] += 1
    return replace(case, tokens=tokens)


def with_prompt_noiseless(case):
    noise = case.noise.clone()
    noise[: case.reference.prompt_feat.shape[1]] = 0
    return replace(case, noise=noise)


def with_prompt_cut(case):
    whole = case.reference
    reference = replace(
        whole, prompt_token=whole.prompt_token[:, 1:], prompt_feat=whole.prompt_feat[:, 2:]
    )
    return replace(case, reference=reference, noise=case.noise[2:])


def with_prompt_unheard(case):
    silent = torch.zeros_like(case.reference.prompt_feat)
    return replace(case, reference=replace(case.reference, prompt_feat=silent))


def with_another_speaker(case):
    other = case.reference.embedding.flip(1)
    return replace(case, reference=replace(case.reference, embedding=other))


MUTATIONS = {
    "one other token": with_one_other_token,
    "noise shifted by a frame": lambda case: replace(case, noise=case.noise.roll(1, 0)),
    "no noise for the prompt": with_prompt_noiseless,
    "prompt cut": with_prompt_cut,
    "prompt unheard": with_prompt_unheard,
    "another speaker": with_another_speaker,
    "guidance sign": lambda case: with_guidance(case, -0.7),
    "no guidance": lambda case: with_guidance(case, 0),
}


@pytest.mark.parametrize("mutate", MUTATIONS.values(), ids=MUTATIONS.keys())
def test_that_comparison_notices(case, right, mutate):
    assert mel_error(mutate(case).mel(), right) > 30 * CLOSE


def test_that_comparison_notices_steps_of_equal_length(case, right, monkeypatch):
    monkeypatch.setattr(flow_module, "step_times", lambda _: torch.linspace(0, 1, 11))

    assert mel_error(case.mel(), right) > 30 * CLOSE


def test_solves_padded_to_the_same_length_do_not_hear_of_each_other(case, right):
    lengths = set()
    flow = Flow(case.flow._flow, capturer=FewShapes())
    step = flow.step
    flow.step = lambda x, *rest: lengths.add(tuple(x.shape)) or step(x, *rest)
    other = Solve(speech_tokens(20), case.reference, NOISE.frames(Use.FLOW, 0, 140, 80))
    this = Solve(case.tokens, case.reference, case.noise)

    others = flow.solve([other, other, this], lambda: None)
    [alone] = flow.solve([this], lambda: None)

    assert lengths == {(4, 80, 256), (1, 80, 256)}
    assert [mel.shape[1] for mel in others] == [40, 40, 120]
    assert mel_error(others[2], right) < CLOSE
    assert mel_error(alone, right) < CLOSE
    assert torch.equal(others[0], others[1])


def test_a_solve_ends_at_the_step_that_raises(case):
    steps = count(1)

    def give_up_at_the_third():
        if next(steps) == 3:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        case.mel(give_up_at_the_third)
    assert next(steps) == 4


def test_the_caller_hears_of_ten_steps(case):
    steps = []
    case.mel(lambda: steps.append(None))

    assert len(steps) == 10
