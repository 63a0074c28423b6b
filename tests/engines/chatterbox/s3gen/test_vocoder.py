from itertools import count

import pytest
import torch
from torch.nn.utils import parametrize

from app.bench.randomness import SAMPLES_PER_FRAME
from app.engines.chatterbox.s3gen import vocoder as vocoder_module
from app.engines.chatterbox.s3gen.noise import Noise
from app.engines.chatterbox.s3gen.vocoder import (
    FILTER_REACH,
    HELD_BACK,
    PITCH_REACH,
    Waveform,
    crossfade,
)
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
NOTHING_PASSED = torch.zeros((), dtype=torch.float64)


@pytest.fixture(autouse=True)
def _inference():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def vocoder(tiny_checkpoint):
    return own_s3gen(tiny_checkpoint).vocoder


@pytest.fixture(scope="module")
def mels(models, upstream):
    """Two different ones, float32 [80, 200]: 4 s each."""
    reference = models.default_voice.s3gen
    return [
        upstreams_mel(upstream.s3gen, speech_tokens(FRAMES // 2, seed), reference, NOISE)
        for seed in (0, 1)
    ]


@pytest.fixture(scope="module")
def mel(mels):
    return mels[0]


@pytest.fixture(scope="module")
def whole(vocoder, mel):
    with torch.inference_mode():
        return Waveform(vocoder, NOISE, fade=0).extend(mel, last=True)


@pytest.fixture(scope="module")
def apart(upstream, mels):
    """The difference that two different mels make to upstream's waveform."""
    one, other = (upstreams_waveform(upstream.s3gen, mel, NOISE) for mel in mels)
    return one - other


# --- Whole utterances -----------------------------------------------------------------------------


def test_the_waveform_is_upstreams(upstream, mel, whole, apart):
    right = upstreams_waveform(upstream.s3gen, mel, NOISE)

    assert len(whole) == FRAMES * SAMPLES_PER_FRAME
    assert decibels(whole - right, apart) < EQUAL_DB


class Shifted(Noise):
    """Noise that comes a frame late."""

    def frames(self, use, start, stop, width):
        return super().frames(use, start + 1, stop + 1, width)


class Aligned(Noise):
    """Harmonics that all begin together."""

    def phases(self, count):
        return torch.zeros(count)


@pytest.mark.parametrize(
    "noise",
    [Shifted(1, 0, CPU), Aligned(1, 0, CPU), Noise(2, 0, CPU)],
    ids=["a frame late", "phases aligned", "another seed"],
)
def test_that_comparison_notices_other_noise(upstream, vocoder, mel, apart, noise):
    right = upstreams_waveform(upstream.s3gen, mel, NOISE)

    assert decibels(Waveform(vocoder, noise, 0).extend(mel, True) - right, apart) > EQUAL_DB


def test_that_comparison_notices_another_pitch(upstream, vocoder, mel, apart, monkeypatch):
    right, pitch = upstreams_waveform(upstream.s3gen, mel, NOISE), vocoder.pitch
    monkeypatch.setattr(vocoder, "pitch", lambda mel: pitch(mel) * 1.001)

    assert decibels(Waveform(vocoder, NOISE, 0).extend(mel, True) - right, apart) > EQUAL_DB


def test_half_a_minute_of_harmonics_stays_in_phase(vocoder):
    pitch, seconds = torch.full((1500,), 187.3), torch.arange(1, 1500 * 480 + 1).double() / 24_000
    phases = NOISE.phases(9)
    source, _ = vocoder.source(pitch, NOTHING_PASSED, phases, torch.zeros(1500 * 480, 9))

    turns = pitch[0].double() * seconds[:, None] * torch.arange(1, 10)
    waves = 0.1 * torch.sin(2 * torch.pi * turns + phases)
    torch.testing.assert_close(source, vocoder._merge(waves.float())[:, 0], atol=1e-5, rtol=0)


def test_folding_the_weight_norm_changes_no_bit(upstream, vocoder, mel):
    original, folded = upstream.s3gen.mel2wav, vocoder._hift
    source = torch.randn(1, 1, FRAMES * SAMPLES_PER_FRAME)

    assert torch.equal(folded.decode(mel[None], source), original.decode(mel[None], source))
    assert torch.equal(folded.f0_predictor(mel[None]), original.f0_predictor(mel[None]))
    assert not any(parametrize.is_parametrized(part) for part in folded.modules())


# --- A growing mel --------------------------------------------------------------------------------


def streamed(vocoder, mel, frames, noise=NOISE, fade=0, between=lambda waveform: None):
    """The waveform of a mel that grows by `frames`; `between` is called before each extension."""
    waveform, pieces = Waveform(vocoder, noise, fade), []
    for stop in range(frames, FRAMES + frames, frames):
        between(waveform)
        pieces.append(waveform.extend(mel[:, :stop], last=stop >= FRAMES))
    return torch.cat(pieces)


@pytest.mark.parametrize("fade", [0, 12_000])
@pytest.mark.parametrize("frames", [6, 35, 70])
def test_the_waveform_of_a_growing_mel_is_that_of_the_whole(
    vocoder, mel, whole, apart, frames, fade
):
    stream = streamed(vocoder, mel, frames, fade=fade)

    assert len(stream) == len(whole)
    assert decibels(stream - whole, apart) < EQUAL_DB


def drop_source(waveform):
    waveform._source = torch.zeros_like(waveform._source)


def drop_phase(waveform):
    waveform._periods = NOTHING_PASSED


def forget_where(waveform):
    waveform._noise = Shifted(1, 0, CPU) if waveform._given else NOISE


@pytest.mark.parametrize("fault", [drop_source, drop_phase, forget_where])
def test_that_comparison_notices_what_is_not_carried_over(vocoder, mel, whole, apart, fault):
    assert decibels(streamed(vocoder, mel, 70, between=fault) - whole, apart) > EQUAL_DB


@pytest.mark.parametrize(("reach", "frames"), [("FILTER_REACH", 6), ("HELD_BACK", 6)])
def test_that_comparison_notices_too_short_a_reach(
    vocoder, mel, whole, apart, monkeypatch, reach, frames
):
    monkeypatch.setattr(vocoder_module, reach, frames)

    assert decibels(streamed(vocoder, mel, 70) - whole, apart) > EQUAL_DB


def first_and_last(changed):
    where = changed.nonzero()[:, 0]
    return where[0].item(), where[-1].item()


def test_a_frames_pitch_is_decided_within_the_stated_reach(vocoder, mel):
    other = mel.clone()
    other[:, 100] += 3
    changed = (vocoder.pitch(other[None]) - vocoder.pitch(mel[None]))[0].abs() > 1e-3

    assert first_and_last(changed) == (100 - PITCH_REACH, 100 + PITCH_REACH)


def test_a_sample_is_decided_within_the_stated_reach(vocoder, mel):
    """Nearly all of it: what a frame does beyond is under -100 dB."""
    source = torch.randn(1, FRAMES * SAMPLES_PER_FRAME) / 10
    other_mel, other_source = mel.clone(), source.clone()
    other_mel[:, 100] += 3
    other_source[:, 48_000:48_480] += 0.2
    one, other = (
        vocoder.filter(mel[None], source)[0],
        vocoder.filter(other_mel[None], other_source)[0],
    )

    changed = (other - one).abs() > 1e-5 * (other - one).abs().max()
    first, last = (sample // SAMPLES_PER_FRAME for sample in first_and_last(changed))
    assert 100 - FILTER_REACH <= first <= 100 - FILTER_REACH + 2
    assert 100 + FILTER_REACH - 2 <= last <= 100 + FILTER_REACH


def test_a_new_rendition_takes_over_within_the_fade(vocoder, mels):
    """And changes nothing of what was given; no sample jumps farther than in either rendition."""
    old, new = mels
    fade, ready = 960, (100 - HELD_BACK) * SAMPLES_PER_FRAME
    begin = ready - fade
    waveform = Waveform(vocoder, NOISE, fade)
    joined = torch.cat([waveform.extend(old[:, :100], False), waveform.extend(new, True)])

    unfaded = Waveform(vocoder, NOISE, 0)
    before = unfaded.extend(old[:, :100], False)
    after = Waveform(vocoder, NOISE, 0)
    after.__dict__.update(vars(unfaded) | {"_given": begin})
    after = torch.cat([before[:begin], after.extend(new, True)])

    assert torch.equal(joined[: begin + 1], before[: begin + 1])
    torch.testing.assert_close(joined[ready:], after[ready:])
    jump = joined[begin:ready].diff().abs()
    of_either = torch.maximum(before[begin:ready].diff().abs(), after[begin:ready].diff().abs())
    of_fade = (before - after[:ready])[begin:].abs().max() / (fade - 1)
    assert (jump <= of_either + of_fade + 1e-6).all()
    hard_cuts = (after[begin + 1 : ready] - before[begin : ready - 1]).abs()
    assert (hard_cuts > of_either + of_fade).any()


def test_an_extension_that_raises_can_be_made_again(vocoder, mel, whole, monkeypatch):
    calls, work = count(), vocoder.filter

    def fails_every_other_time(mel, source):
        if next(calls) % 2 == 0:
            raise MemoryError
        return work(mel, source)

    monkeypatch.setattr(vocoder, "filter", fails_every_other_time)

    def try_in_vain(waveform):
        with pytest.raises(MemoryError):
            waveform.extend(mel[:, :195], last=False)

    stream = streamed(vocoder, mel, 80, between=try_in_vain)
    torch.testing.assert_close(stream, whole, atol=1e-4, rtol=0)


def test_a_crossfade_begins_with_the_old_and_ends_with_the_new():
    faded = crossfade(torch.full((5,), 1.0), torch.full((8,), -1.0))

    assert faded.tolist() == [1, 0.5, 0, -0.5, -1, -1, -1, -1]
    assert crossfade(torch.empty(0), torch.ones(3)).tolist() == [1, 1, 1]
