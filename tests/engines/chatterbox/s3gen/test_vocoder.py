from itertools import count

import pytest
import torch
from torch.nn.utils import parametrize

from app.bench.randomness import SAMPLES_PER_FRAME
from app.engines.chatterbox.s3gen import waveform as waveform_module
from app.engines.chatterbox.s3gen.constants import (
    F0_RECEPTIVE_FIELD,
    FILTER_RECEPTIVE_FIELD,
    LOOKAHEAD_FRAMES,
)
from app.engines.chatterbox.s3gen.noise import Noise
from app.engines.chatterbox.s3gen.waveform import StreamingVocoder, crossfade
from tests.support.speech import (
    CPU,
    decibels,
    own_s3gen,
    speech_tokens,
    upstreams_mel,
    upstreams_waveform,
)

EQUAL_DB = -70
NOISE = Noise(1, 0, CPU)
FRAMES = 200
NO_CYCLES = torch.zeros((), dtype=torch.float64)


@pytest.fixture(autouse=True)
def _inference():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def vocoder(tiny_checkpoint):
    return own_s3gen(tiny_checkpoint).vocoder


@pytest.fixture(scope="module")
def mels(models, upstream):
    """Two different mels, float32 [80, 200]: 4 s each."""
    prompt = models.default_voice.s3gen
    return [
        upstreams_mel(upstream.s3gen, speech_tokens(FRAMES // 2, seed), prompt, NOISE)
        for seed in (0, 1)
    ]


@pytest.fixture(scope="module")
def mel(mels):
    return mels[0]


@pytest.fixture(scope="module")
def complete(vocoder, mel):
    with torch.inference_mode():
        return StreamingVocoder(vocoder, NOISE, fade=0).extend(mel, last=True)


@pytest.fixture(scope="module")
def difference(upstream, mels):
    """The difference between upstream's waveforms of two mels."""
    one, other = (upstreams_waveform(upstream.s3gen, mel, NOISE) for mel in mels)
    return one - other


# --- Whole utterances -----------------------------------------------------------------------------


def test_waveform_equals_upstreams(upstream, mel, complete, difference):
    expected = upstreams_waveform(upstream.s3gen, mel, NOISE)

    assert len(complete) == FRAMES * SAMPLES_PER_FRAME
    assert decibels(complete - expected, difference) < EQUAL_DB


class Shifted(Noise):
    """Noise delayed by one frame."""

    def frames(self, use, start, stop, width):
        return super().frames(use, start + 1, stop + 1, width)


class Aligned(Noise):
    """Harmonics that all begin with phase 0."""

    def phases(self, count):
        return torch.zeros(count)


@pytest.mark.parametrize(
    "noise",
    [Shifted(1, 0, CPU), Aligned(1, 0, CPU), Noise(2, 0, CPU)],
    ids=["a frame late", "phases aligned", "another seed"],
)
def test_waveform_comparison_detects_other_noise(upstream, vocoder, mel, difference, noise):
    expected = upstreams_waveform(upstream.s3gen, mel, NOISE)

    audio = StreamingVocoder(vocoder, noise, 0).extend(mel, True)
    assert decibels(audio - expected, difference) > EQUAL_DB


def test_waveform_comparison_detects_another_f0(upstream, vocoder, mel, difference, monkeypatch):
    expected, f0 = upstreams_waveform(upstream.s3gen, mel, NOISE), vocoder.f0
    monkeypatch.setattr(vocoder, "f0", lambda mel: f0(mel) * 1.001)

    audio = StreamingVocoder(vocoder, NOISE, 0).extend(mel, True)
    assert decibels(audio - expected, difference) > EQUAL_DB


def test_harmonics_stay_in_phase_for_half_a_minute(vocoder):
    f0, seconds = torch.full((1500,), 187.3), torch.arange(1, 1500 * 480 + 1).double() / 24_000
    phases = NOISE.phases(9)
    excitation, _ = vocoder.excitation(f0, NO_CYCLES, phases, torch.zeros(1500 * 480, 9))

    cycles = f0[0].double() * seconds[:, None] * torch.arange(1, 10)
    waves = 0.1 * torch.sin(2 * torch.pi * cycles + phases)
    torch.testing.assert_close(excitation, vocoder._merge(waves.float())[:, 0], atol=1e-5, rtol=0)


def test_folding_weight_norm_is_bit_exact(upstream, vocoder, mel):
    original, folded = upstream.s3gen.mel2wav, vocoder._hift
    excitation = torch.randn(1, 1, FRAMES * SAMPLES_PER_FRAME)

    assert torch.equal(folded.decode(mel[None], excitation), original.decode(mel[None], excitation))
    assert torch.equal(folded.f0_predictor(mel[None]), original.f0_predictor(mel[None]))
    assert not any(parametrize.is_parametrized(part) for part in folded.modules())


# --- A growing mel --------------------------------------------------------------------------------


def streamed(vocoder, mel, frames, noise=NOISE, fade=0, before_each=lambda stream: None):
    """The waveform of a mel that grows by `frames`; `before_each` is called before each call."""
    stream, pieces = StreamingVocoder(vocoder, noise, fade), []
    for stop in range(frames, FRAMES + frames, frames):
        before_each(stream)
        pieces.append(stream.extend(mel[:, :stop], last=stop >= FRAMES))
    return torch.cat(pieces)


@pytest.mark.parametrize("fade", [0, 12_000])
@pytest.mark.parametrize("frames", [pytest.param(6, marks=pytest.mark.heavy), 35, 70])
def test_waveform_of_a_growing_mel_equals_the_complete_one(
    vocoder, mel, complete, difference, frames, fade
):
    audio = streamed(vocoder, mel, frames, fade=fade)

    assert len(audio) == len(complete)
    assert decibels(audio - complete, difference) < EQUAL_DB


def reset_excitation(stream):
    stream._excitation = torch.zeros_like(stream._excitation)


def reset_phase(stream):
    stream._phase_cycles = NO_CYCLES


def shift_noise(stream):
    stream._noise = Shifted(1, 0, CPU) if stream._emitted else NOISE


@pytest.mark.parametrize("fault", [reset_excitation, reset_phase, shift_noise])
def test_streaming_comparison_detects_lost_state(vocoder, mel, complete, difference, fault):
    assert decibels(streamed(vocoder, mel, 70, before_each=fault) - complete, difference) > EQUAL_DB


@pytest.mark.parametrize("constant", ["FILTER_RECEPTIVE_FIELD", "LOOKAHEAD_FRAMES"])
def test_streaming_comparison_detects_too_short_a_look_ahead(
    vocoder, mel, complete, difference, monkeypatch, constant
):
    monkeypatch.setattr(waveform_module, constant, 6)

    assert decibels(streamed(vocoder, mel, 70) - complete, difference) > EQUAL_DB


def first_and_last(changed):
    where = changed.nonzero()[:, 0]
    return where[0].item(), where[-1].item()


def test_f0_depends_on_frames_within_its_receptive_field(vocoder, mel):
    other = mel.clone()
    other[:, 100] += 3
    changed = (vocoder.f0(other[None]) - vocoder.f0(mel[None]))[0].abs() > 1e-3

    assert first_and_last(changed) == (100 - F0_RECEPTIVE_FIELD, 100 + F0_RECEPTIVE_FIELD)


def test_sample_depends_on_frames_within_the_filters_receptive_field(vocoder, mel):
    """The influence of frames beyond it is below -100 dB."""
    excitation = torch.randn(1, FRAMES * SAMPLES_PER_FRAME) / 10
    other_mel, other_excitation = mel.clone(), excitation.clone()
    other_mel[:, 100] += 3
    other_excitation[:, 48_000:48_480] += 0.2
    one, other = (
        vocoder.filter(mel[None], excitation)[0],
        vocoder.filter(other_mel[None], other_excitation)[0],
    )

    changed = (other - one).abs() > 1e-5 * (other - one).abs().max()
    first, last = (sample // SAMPLES_PER_FRAME for sample in first_and_last(changed))
    assert 100 - FILTER_RECEPTIVE_FIELD <= first <= 100 - FILTER_RECEPTIVE_FIELD + 2
    assert 100 + FILTER_RECEPTIVE_FIELD - 2 <= last <= 100 + FILTER_RECEPTIVE_FIELD


def test_newer_version_of_the_mel_is_crossfaded_in(vocoder, mels):
    """Emitted samples stay, and no sample jumps farther than in either version."""
    old, new = mels
    fade, ready = 960, (100 - LOOKAHEAD_FRAMES) * SAMPLES_PER_FRAME
    begin = ready - fade
    stream = StreamingVocoder(vocoder, NOISE, fade)
    joined = torch.cat([stream.extend(old[:, :100], False), stream.extend(new, True)])

    unfaded = StreamingVocoder(vocoder, NOISE, 0)
    before = unfaded.extend(old[:, :100], False)
    after = StreamingVocoder(vocoder, NOISE, 0)
    after.__dict__.update(vars(unfaded) | {"_emitted": begin})
    after = torch.cat([before[:begin], after.extend(new, True)])

    assert torch.equal(joined[: begin + 1], before[: begin + 1])
    torch.testing.assert_close(joined[ready:], after[ready:])
    jump = joined[begin:ready].diff().abs()
    of_either = torch.maximum(before[begin:ready].diff().abs(), after[begin:ready].diff().abs())
    of_fade = (before - after[:ready])[begin:].abs().max() / (fade - 1)
    assert (jump <= of_either + of_fade + 1e-6).all()
    hard_cuts = (after[begin + 1 : ready] - before[begin : ready - 1]).abs()
    assert (hard_cuts > of_either + of_fade).any()


def test_extend_can_be_repeated_after_an_error(vocoder, mel, complete, monkeypatch):
    calls, work = count(), vocoder.filter

    def fails_every_other_time(mel, excitation):
        if next(calls) % 2 == 0:
            raise MemoryError
        return work(mel, excitation)

    monkeypatch.setattr(vocoder, "filter", fails_every_other_time)

    def fail_once(stream):
        with pytest.raises(MemoryError):
            stream.extend(mel[:, :195], last=False)

    audio = streamed(vocoder, mel, 80, before_each=fail_once)
    torch.testing.assert_close(audio, complete, atol=1e-4, rtol=0)


def test_crossfade_goes_from_old_to_new():
    faded = crossfade(torch.full((5,), 1.0), torch.full((8,), -1.0))

    assert faded.tolist() == [1, 0.5, 0, -0.5, -1, -1, -1, -1]
    assert crossfade(torch.empty(0), torch.ones(3)).tolist() == [1, 1, 1]
