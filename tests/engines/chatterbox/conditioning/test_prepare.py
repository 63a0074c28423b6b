import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile
import torch
from chatterbox import ChatterboxTTS
from chatterbox.tts import Conditionals as UpstreamConditionals
from chatterbox.tts_turbo import ChatterboxTurboTTS

from app.core.audio import Samples
from app.core.errors import UnusableAudio
from app.engines.chatterbox.checkpoint.models import Models
from app.engines.chatterbox.conditioning.conditionals import (
    TENSOR_SHAPES,
    Conditionals,
    builtin_conditionals,
)
from app.engines.chatterbox.conditioning.prepare import normalise_loudness, prepare
from tests.engines.chatterbox.conditioning.conftest import AUSTEN


def close(conditionals: Conditionals, expected: UpstreamConditionals) -> bool:
    """Whether tokens are equal to upstream's and numbers to 1e-4."""
    upstreams = builtin_conditionals({"t3": vars(expected.t3), "gen": expected.gen})
    ours, theirs = (vars(v) | vars(v.s3gen) for v in (conditionals, upstreams))
    return all(
        ours[name].shape == theirs[name].shape
        and torch.allclose(ours[name], theirs[name], rtol=0, atol=1e-4)
        for name in TENSOR_SHAPES
    )


@pytest.fixture
def turbo(models_of: Callable[[str], Models]) -> Models:
    return models_of("turbo")


@pytest.fixture
def upstream_turbo(upstream_of: Callable[[str], ChatterboxTurboTTS]) -> ChatterboxTurboTTS:
    return upstream_of("turbo")


def write(path: Path, voice: tuple[Samples, int], seconds: float) -> tuple[Samples, int]:
    """Write the first `seconds` of the repeated voice to `path`, and return them."""
    samples, rate = voice
    samples = np.tile(samples, 3)[: int(seconds * rate)]
    soundfile.write(path, samples, rate, subtype="FLOAT")
    return samples, rate


def with_prompt(models: Models, **changes: float) -> Models:
    """The same models with another `PromptSpec`."""
    spec = models.spec
    return replace(models, spec=replace(spec, prompt=replace(spec.prompt, **changes)))


@pytest.mark.parametrize("rate", [8_000, 16_000, 24_000, 44_100])
@pytest.mark.parametrize("seconds", [1.01, 4.1833, 10.4, 31.0])
def test_conditionals_equal_upstreams(
    models: Models,
    upstream: ChatterboxTTS,
    austen: tuple[Samples, int],
    tmp_path: Path,
    rate: int,
    seconds: float,
) -> None:
    long = np.tile(austen[0], 3)
    samples = librosa.resample(long, orig_sr=austen[1], target_sr=rate)[: int(seconds * rate)]
    soundfile.write(tmp_path / "voice.wav", samples, rate, subtype="FLOAT")
    upstream.prepare_conditionals(tmp_path / "voice.wav")
    assert close(prepare(models, samples, rate), upstream.conds)


@pytest.mark.parametrize(
    "change",
    [
        lambda samples: samples * np.float32(1.01),
        lambda samples: samples[5:],
        lambda samples: samples[: -len(samples) // 20],
    ],
    ids=["louder", "later", "shorter"],
)
def test_comparison_detects_a_small_change_of_the_audio(
    models: Models,
    upstream: ChatterboxTTS,
    austen: tuple[Samples, int],
    change: Callable[[Samples], Samples],
) -> None:
    upstream.prepare_conditionals(AUSTEN)
    samples, rate = austen
    assert close(prepare(models, samples, rate), upstream.conds)
    assert not close(prepare(models, change(samples), rate), upstream.conds)


@pytest.mark.parametrize("change", [{"t3_s": 5}, {"s3gen_s": 9}, {"t3_tokens": 149}])
def test_comparison_detects_a_shorter_prompt(
    models: Models, upstream: ChatterboxTTS, austen: tuple[Samples, int], change: dict[str, float]
) -> None:
    upstream.prepare_conditionals(AUSTEN)
    assert not close(prepare(with_prompt(models, **change), *austen), upstream.conds)


def test_comparison_detects_another_resampler(
    models: Models,
    upstream: ChatterboxTTS,
    austen: tuple[Samples, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    upstream.prepare_conditionals(AUSTEN)
    usual = librosa.resample
    monkeypatch.setattr(
        librosa, "resample", lambda *args, **kw: usual(*args, **kw, res_type="polyphase")
    )
    assert not close(prepare(models, *austen), upstream.conds)


def test_different_voices_give_different_tensors(
    models: Models, austen: tuple[Samples, int]
) -> None:
    samples, rate = austen
    other = prepare(models, samples[::-1].copy(), rate)
    voice = prepare(models, samples, rate)
    for name in ("speaker_embedding", "prompt_tokens"):
        assert not torch.equal(getattr(voice, name), getattr(other, name))
    assert (voice.s3gen.embedding - other.s3gen.embedding).abs().max() > 0.01


def test_tensors_have_the_documented_shapes(models: Models, austen: tuple[Samples, int]) -> None:
    voice = prepare(models, *austen)
    assert voice.speaker_embedding.shape == (1, 256)
    assert voice.prompt_tokens.shape == (1, 150)
    assert voice.s3gen.prompt_token.shape == (1, 250)
    assert voice.s3gen.prompt_feat.shape == (1, 500, 80)
    assert voice.s3gen.embedding.shape == (1, 192)
    assert voice.prompt_tokens.dtype == voice.s3gen.prompt_token.dtype == torch.int64


def test_prompt_ending_within_a_token_has_two_frames_per_token(
    models: Models, upstream: ChatterboxTTS, austen: tuple[Samples, int], tmp_path: Path
) -> None:
    samples, rate = austen[0][: int(4.19 * austen[1])], austen[1]
    soundfile.write(tmp_path / "voice.wav", samples, rate)
    upstream.prepare_conditionals(tmp_path / "voice.wav")
    assert upstream.conds.gen["prompt_feat"].shape[1] == 209
    prompt = prepare(models, samples, rate).s3gen
    assert prompt.prompt_feat.shape[1] == 2 * prompt.prompt_token.shape[1] == 208


def test_tensors_are_not_inference_tensors(models: Models, austen: tuple[Samples, int]) -> None:
    """Compiled functions would be compiled again for inference tensors."""
    voice = prepare(models, *austen)
    for tensor in (vars(voice) | vars(voice.s3gen)).values():
        if isinstance(tensor, torch.Tensor):
            assert not tensor.is_inference()
            assert not tensor.requires_grad


def test_draws_no_random_numbers(models: Models, austen: tuple[Samples, int]) -> None:
    before = torch.get_rng_state()
    prepare(models, *austen)
    assert torch.equal(torch.get_rng_state(), before)


def test_rejects_audio_shorter_than_the_model_needs(
    models: Models, austen: tuple[Samples, int]
) -> None:
    samples, rate = austen
    demanding = with_prompt(models, min_audio_s=5)
    with pytest.raises(UnusableAudio, match=r"at least 5 s, and this one has 4\.9 s"):
        prepare(demanding, samples[: 5 * rate - 1], rate)
    prepare(demanding, samples[: 5 * rate], rate)


def test_loudness_normalisation_equals_upstreams(austen: tuple[Samples, int]) -> None:
    samples, rate = austen
    expected = ChatterboxTurboTTS.norm_loudness(None, samples, rate)
    normalised = normalise_loudness(samples, rate, -27)
    assert normalised.dtype == np.float32
    np.testing.assert_allclose(normalised, expected, rtol=1e-6)
    silence = np.zeros_like(samples)
    assert normalise_loudness(silence, rate, -27) is silence


def test_model_with_a_loudness_gets_the_same_voice_from_a_quiet_recording(
    models: Models, austen: tuple[Samples, int]
) -> None:
    samples, rate = austen
    loud = with_prompt(models, loudness_lufs=-27)
    one, quiet = (prepare(loud, samples * np.float32(gain), rate) for gain in (1, 0.5))
    torch.testing.assert_close(quiet.s3gen.prompt_feat, one.s3gen.prompt_feat, atol=1e-3, rtol=0)


@pytest.mark.parametrize("seconds", [5.01, 16.3])
def test_conditionals_of_turbo_equal_upstreams(
    turbo: Models,
    upstream_turbo: ChatterboxTurboTTS,
    austen: tuple[Samples, int],
    tmp_path: Path,
    seconds: float,
) -> None:
    voice = write(tmp_path / "voice.wav", austen, seconds)
    upstream_turbo.prepare_conditionals(tmp_path / "voice.wav")
    prepared = prepare(turbo, *voice)
    assert close(prepared, upstream_turbo.conds)
    assert prepared.prompt_tokens.shape == (1, min(375, math.ceil(25 * seconds)))


@pytest.mark.parametrize(
    "change",
    [
        {"loudness_lufs": None},
        {"t3_tokens": 374},
        pytest.param({"loudness_lufs": -26.9}, marks=pytest.mark.heavy),
        pytest.param({"t3_s": 6}, marks=pytest.mark.heavy),
        pytest.param({"s3gen_s": 9}, marks=pytest.mark.heavy),
    ],
)
def test_comparison_of_turbos_conditionals_detects(
    turbo: Models,
    upstream_turbo: ChatterboxTurboTTS,
    austen: tuple[Samples, int],
    tmp_path: Path,
    change: dict[str, float],
) -> None:
    voice = write(tmp_path / "voice.wav", austen, 16.3)
    upstream_turbo.prepare_conditionals(tmp_path / "voice.wav")
    assert not close(prepare(with_prompt(turbo, **change), *voice), upstream_turbo.conds)


def test_loudness_is_that_of_the_whole_clip(
    turbo: Models, upstream_turbo: ChatterboxTurboTTS, austen: tuple[Samples, int], tmp_path: Path
) -> None:
    """It is louder after the first ten seconds, which are all that S3Gen gets."""
    samples, rate = write(tmp_path / "voice.wav", austen, 16.3)
    samples[: 11 * rate] *= np.float32(0.2)
    soundfile.write(tmp_path / "voice.wav", samples, rate, subtype="FLOAT")
    upstream_turbo.prepare_conditionals(tmp_path / "voice.wav")
    assert close(prepare(turbo, samples, rate), upstream_turbo.conds)
    assert not close(prepare(turbo, samples[: 10 * rate], rate), upstream_turbo.conds)


def test_voice_of_four_seconds_is_refused_for_turbo_alone(
    turbo: Models, models: Models, austen: tuple[Samples, int]
) -> None:
    samples, rate = austen[0][: 4 * austen[1]], austen[1]
    prepare(models, samples, rate)
    with pytest.raises(UnusableAudio) as refusal:
        prepare(turbo, samples, rate)
    assert (refusal.value.status, refusal.value.param) == (422, "voice_id")
    assert str(refusal.value) == (
        "Chatterbox Turbo needs a voice of at least 5 s, and this one has 4.0 s: "
        "give a longer one or another model."
    )
