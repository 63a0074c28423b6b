from copy import copy
from dataclasses import dataclass, replace
from itertools import count

import pytest
import torch

from app.bench.checkpoint import tiny_sizes
from app.engines.chatterbox.checkpoint.loader import load
from app.engines.chatterbox.conditioning.conditionals import S3GenPrompt
from app.engines.chatterbox.runtime.compilation import NO_COMPILER
from app.engines.chatterbox.s3gen.flow import Flow, FlowInput, StaticShapeFlow
from app.engines.chatterbox.s3gen.noise import Noise, NoiseStream
from app.engines.chatterbox.s3gen.solvers import step_times
from app.engines.chatterbox.variants import ENGLISH, TURBO, VARIANTS
from tests.support.few_shapes import FewShapes
from tests.support.speech import CPU, mel_error, speech_tokens, upstreams_mel

CLOSE = 1e-4  # of the mel's range
NOISE = Noise(1, 0, CPU)


@dataclass(frozen=True)
class Case:
    """One solve with everything that it depends on."""

    flow: Flow
    tokens: torch.Tensor
    prompt: S3GenPrompt
    noise: torch.Tensor

    @torch.inference_mode()
    def mel(self, on_step=lambda: None):
        [mel] = self.flow.solve([FlowInput(self.tokens, self.prompt, self.noise)], on_step)
        return mel


def case_of(models):
    """60 tokens, 2.4 s, after a prompt of 50."""
    prompt = models.default_voice.s3gen
    noise = NOISE.frames(NoiseStream.FLOW, 0, 2 * (50 + 60), 80)
    return Case(Flow(models.s3gen.flow, models.spec.flow), speech_tokens(60), prompt, noise)


@pytest.fixture(scope="module")
def case(models):
    return case_of(models)


@pytest.fixture(scope="module")
def expected(case, upstream):
    return upstreams_mel(upstream.s3gen, case.tokens, case.prompt, NOISE)


@pytest.fixture(scope="module")
def turbo_case(models_of):
    return case_of(models_of("turbo"))


@pytest.fixture(scope="module")
def turbo_expected(turbo_case, upstream_of):
    return upstreams_mel(upstream_of("turbo").s3gen, turbo_case.tokens, turbo_case.prompt, NOISE)


def test_mel_equals_upstreams(case, expected):
    mel = case.mel()

    assert mel.shape == (80, 120)
    assert mel_error(mel, expected) < CLOSE


def test_mel_of_the_mean_flow_equals_upstreams(turbo_case, turbo_expected):
    steps = []

    mel = turbo_case.mel(lambda: steps.append(None))

    assert mel.shape == (80, 120)
    assert len(steps) == 2
    assert mel_error(mel, turbo_expected) < CLOSE


@pytest.fixture(scope="module")
def packed(tiny_checkpoint):
    with tiny_sizes():
        return Flow(load(tiny_checkpoint, "cpu", packed=True).s3gen.flow, ENGLISH.flow)


def test_mel_with_packed_linears_equals_upstreams(packed, case, expected):
    mel = replace(case, flow=packed).mel()

    assert mel_error(mel, expected) < CLOSE


def with_solver(case, **changes):
    flow = copy(case.flow)
    flow.solver = copy(flow.solver)
    vars(flow.solver).update(changes)
    return replace(case, flow=flow)


def with_one_other_token(case):
    tokens = case.tokens.clone()
    tokens[30] += 1
    return replace(case, tokens=tokens)


def without_prompt_noise(case):
    noise = case.noise.clone()
    noise[: case.prompt.prompt_feat.shape[1]] = 0
    return replace(case, noise=noise)


def with_prompt_shortened(case):
    full = case.prompt
    prompt = replace(
        full, prompt_token=full.prompt_token[:, 1:], prompt_feat=full.prompt_feat[:, 2:]
    )
    return replace(case, prompt=prompt, noise=case.noise[2:])


def with_prompt_mel_zero(case):
    zeros = torch.zeros_like(case.prompt.prompt_feat)
    return replace(case, prompt=replace(case.prompt, prompt_feat=zeros))


def with_another_speaker(case):
    other = case.prompt.embedding.flip(1)
    return replace(case, prompt=replace(case.prompt, embedding=other))


INPUT_MUTATIONS = {
    "one other token": with_one_other_token,
    "noise shifted by a frame": lambda case: replace(case, noise=case.noise.roll(1, 0)),
    "no noise for the prompt": without_prompt_noise,
    "prompt shortened": with_prompt_shortened,
    "prompt mel zero": with_prompt_mel_zero,
    "another speaker": with_another_speaker,
}
MUTATIONS = {
    "guidance sign": lambda case: with_solver(case, guidance=-0.7),
    "no guidance": lambda case: with_solver(case, guidance=0),
    "steps of equal length": lambda case: with_solver(case, times=torch.linspace(0, 1, 11)),
}


MEAN_FLOW_MUTATIONS = {
    "time mixer dropped": lambda case: with_solver(
        case, _mix_times=lambda both: both.chunk(2, 1)[0]
    ),
    "end of a step for its start": lambda case: with_solver(
        case, _mix_times=lambda both, mix=case.flow.solver._mix_times: mix(both.roll(256, 1))
    ),
    "times on a cosine": lambda case: with_solver(case, times=step_times(TURBO.flow, CPU)),
    "one step": lambda case: with_solver(case, times=torch.tensor([0.0, 1.0])),
    "guided": lambda case: with_solver(case, expand=lambda conditioning: 1.7 * conditioning),
}


@pytest.mark.parametrize(("name", "mutate"), (INPUT_MUTATIONS | MUTATIONS).items())
def test_mel_comparison_detects(case, expected, name, mutate):
    assert mel_error(mutate(case).mel(), expected) > 30 * CLOSE


@pytest.mark.parametrize(("name", "mutate"), (INPUT_MUTATIONS | MEAN_FLOW_MUTATIONS).items())
def test_comparison_of_mean_flows_detects(turbo_case, turbo_expected, name, mutate):
    assert mel_error(mutate(turbo_case).mel(), turbo_expected) > 30 * CLOSE


@pytest.mark.parametrize(("variant", "rows"), [("chatterbox", 2), ("turbo", 1)])
def test_padded_batch_gives_each_input_its_own_mel(request, variant, rows):
    prefix = "" if variant == "chatterbox" else "turbo_"
    case, expected = (request.getfixturevalue(prefix + name) for name in ("case", "expected"))
    shapes = set()
    spec = VARIANTS[variant].flow
    flow = StaticShapeFlow(case.flow._flow, spec, NO_COMPILER, FewShapes())
    step = flow.solver.step

    def recorded(x, conditioning, *rest):
        shapes.add((tuple(x.shape), len(conditioning)))
        return step(x, conditioning, *rest)

    flow.solver.step = recorded
    other = FlowInput(speech_tokens(20), case.prompt, NOISE.frames(NoiseStream.FLOW, 0, 140, 80))
    this = FlowInput(case.tokens, case.prompt, case.noise)

    mels = flow.solve([other, other, this], lambda: None)
    [alone] = flow.solve([this], lambda: None)

    assert shapes == {((4, 80, 256), 4 * rows), ((1, 80, 256), rows)}
    assert [mel.shape[1] for mel in mels] == [40, 40, 120]
    assert mel_error(mels[2], expected) < CLOSE
    assert mel_error(alone, expected) < CLOSE
    assert torch.equal(mels[0], mels[1])


def test_solve_ends_at_the_step_that_raises(case):
    steps = count(1)

    def raise_at_the_third():
        if next(steps) == 3:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        case.mel(raise_at_the_third)
    assert next(steps) == 4


def test_on_step_is_called_ten_times(case):
    steps = []
    case.mel(lambda: steps.append(None))

    assert len(steps) == 10
