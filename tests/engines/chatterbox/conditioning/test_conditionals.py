import dataclasses
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import pytest
import safetensors.torch
import soundfile
import torch
from chatterbox import ChatterboxTTS
from chatterbox.tts import Conditionals

from app.core.audio import Samples
from app.engines.chatterbox.checkpoint.loader import Models
from app.engines.chatterbox.conditioning import conditionals as voices
from app.engines.chatterbox.conditioning.conditionals import (
    ChatterboxVoice,
    VoiceCache,
    prepare,
    saved_voice,
)
from tests.support.service import ROOT

AUSTEN = ROOT / "preloaded-voices" / "austen.wav"


@pytest.fixture(scope="module")
def austen() -> tuple[Samples, int]:
    return soundfile.read(AUSTEN, dtype="float32")


def agree(voice: ChatterboxVoice, conditionals: Conditionals) -> bool:
    """Whether the voice is what upstream made of it: tokens the same, numbers to 1e-4."""
    expected = saved_voice({"t3": vars(conditionals.t3), "gen": conditionals.gen})
    ours, theirs = (vars(v) | vars(v.s3gen) for v in (voice, expected))
    names = {"speaker_embedding", "prompt_tokens", "prompt_token", "prompt_feat", "embedding"}
    return all(
        ours[name].shape == theirs[name].shape
        and torch.allclose(ours[name], theirs[name], rtol=0, atol=1e-4)
        for name in names
    )


def same(one: ChatterboxVoice, other: ChatterboxVoice) -> bool:
    ours, theirs = (vars(v) | vars(v.s3gen) for v in (one, other))
    return all(torch.equal(ours[name], theirs[name]) for name in ours if name != "s3gen")


# --- The same as upstream's ---------------------------------------------------------------------


@pytest.mark.parametrize("rate", [8_000, 16_000, 24_000, 44_100])
@pytest.mark.parametrize("seconds", [1.01, 4.1833, 10.4, 31.0])
def test_the_conditionals_are_upstreams(
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
    assert agree(prepare(models, samples, rate), upstream.conds)


@pytest.mark.parametrize(
    "change",
    [
        lambda samples: samples * np.float32(1.01),
        lambda samples: samples[5:],
        lambda samples: samples[: -len(samples) // 20],
    ],
    ids=["louder", "later", "without its end"],
)
def test_a_small_change_of_the_audio_would_be_noticed(
    models: Models,
    upstream: ChatterboxTTS,
    austen: tuple[Samples, int],
    change: Callable[[Samples], Samples],
) -> None:
    upstream.prepare_conditionals(AUSTEN)
    samples, rate = austen
    assert agree(prepare(models, samples, rate), upstream.conds)
    assert not agree(prepare(models, change(samples), rate), upstream.conds)


@pytest.mark.parametrize(("prompt", "seconds"), [("T3_PROMPT_S", 5), ("S3GEN_PROMPT_S", 9)])
def test_a_shorter_prompt_would_be_noticed(
    models: Models,
    upstream: ChatterboxTTS,
    austen: tuple[Samples, int],
    monkeypatch: pytest.MonkeyPatch,
    prompt: str,
    seconds: int,
) -> None:
    upstream.prepare_conditionals(AUSTEN)
    monkeypatch.setattr(voices, prompt, seconds)
    assert not agree(prepare(models, *austen), upstream.conds)


def test_another_resampler_would_be_noticed(
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
    assert not agree(prepare(models, *austen), upstream.conds)


def test_different_people_differ(models: Models, austen: tuple[Samples, int]) -> None:
    samples, rate = austen
    other = prepare(models, samples[::-1].copy(), rate)
    voice = prepare(models, samples, rate)
    for name in ("speaker_embedding", "prompt_tokens"):
        assert not torch.equal(getattr(voice, name), getattr(other, name))
    assert (voice.s3gen.embedding - other.s3gen.embedding).abs().max() > 0.01


# --- A value ------------------------------------------------------------------------------------


def test_shapes_are_as_stated(models: Models, austen: tuple[Samples, int]) -> None:
    voice = prepare(models, *austen)
    assert voice.speaker_embedding.shape == (1, 256)
    assert voice.prompt_tokens.shape == (1, 150)
    assert voice.s3gen.prompt_token.shape == (1, 250)
    assert voice.s3gen.prompt_feat.shape == (1, 500, 80)
    assert voice.s3gen.embedding.shape == (1, 192)
    assert voice.prompt_tokens.dtype == voice.s3gen.prompt_token.dtype == torch.int64


def test_a_prompt_that_ends_amid_a_token_has_two_frames_a_token(
    models: Models, upstream: ChatterboxTTS, austen: tuple[Samples, int], tmp_path: Path
) -> None:
    samples, rate = austen[0][: int(4.19 * austen[1])], austen[1]
    soundfile.write(tmp_path / "voice.wav", samples, rate)
    upstream.prepare_conditionals(tmp_path / "voice.wav")
    assert upstream.conds.gen["prompt_feat"].shape[1] == 209
    reference = prepare(models, samples, rate).s3gen
    assert reference.prompt_feat.shape[1] == 2 * reference.prompt_token.shape[1] == 208


def test_a_shorter_prompt_is_the_beginning_of_the_whole(
    models: Models, austen: tuple[Samples, int]
) -> None:
    samples, rate = austen
    whole = prepare(models, samples, rate)
    cut = whole.with_prompt_of(3)
    assert same(whole.with_prompt_of(10), whole)
    assert cut.s3gen.prompt_token.tolist() == [whole.s3gen.prompt_token[0, :75].tolist()]
    assert torch.equal(cut.s3gen.prompt_feat, whole.s3gen.prompt_feat[:, :150])
    for name in ("speaker_embedding", "prompt_tokens"):
        assert getattr(cut, name) is getattr(whole, name)
    assert cut.s3gen.embedding is whole.s3gen.embedding


def test_tensors_may_be_used_with_and_without_gradients(
    models: Models, austen: tuple[Samples, int]
) -> None:
    """Compiled code would be compiled again for inference tensors."""
    voice = prepare(models, *austen)
    for tensor in (vars(voice) | vars(voice.s3gen)).values():
        if isinstance(tensor, torch.Tensor):
            assert not tensor.is_inference()
            assert not tensor.requires_grad


def test_draws_no_random_numbers(models: Models, austen: tuple[Samples, int]) -> None:
    before = torch.get_rng_state()
    prepare(models, *austen)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("group", "name", "value"),
    [
        ("t3", "speaker_emb", torch.zeros(256)),
        ("t3", "cond_prompt_speech_tokens", torch.zeros(150)),
        ("gen", "prompt_feat", torch.zeros(1, 99, 80)),
        ("gen", "prompt_feat", torch.zeros(1, 100, 128)),
        ("gen", "embedding", torch.zeros(1, 80)),
    ],
)
def test_saved_conditionals_of_odd_shape_are_refused(
    tiny_checkpoint: Path, group: str, name: str, value: torch.Tensor
) -> None:
    saved = torch.load(tiny_checkpoint / "conds.pt", weights_only=True)
    saved_voice(saved)
    saved[group][name] = value
    with pytest.raises(ValueError, match=r"is not a tensor of shape|frames for"):
        saved_voice(saved)


def test_saved_conditionals_that_are_no_numbers_are_refused(tiny_checkpoint: Path) -> None:
    saved = torch.load(tiny_checkpoint / "conds.pt", weights_only=True)
    saved["gen"]["embedding"][0, 7] = torch.nan
    with pytest.raises(ValueError, match="embedding holds what is no number"):
        saved_voice(saved)


# --- The cache ----------------------------------------------------------------------------------


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> list[ChatterboxVoice]:
    """All voices that were prepared, not read, since the test began."""
    made: list[ChatterboxVoice] = []

    def counted(*args: Any) -> ChatterboxVoice:
        made.append(prepare(*args))
        return made[-1]

    monkeypatch.setattr(voices, "prepare", counted)
    return made


@pytest.fixture
def audio(austen: tuple[Samples, int]) -> tuple[Samples, int]:
    """Two seconds and a bit, so that a mel frame is left over."""
    samples, rate = austen
    return samples[: int(2.02 * rate)], rate


def test_a_voice_is_prepared_once(
    models: Models, audio: tuple[Samples, int], tmp_path: Path, prepared: list[ChatterboxVoice]
) -> None:
    voice = VoiceCache(tmp_path / ".voices", models).voice(*audio)
    again = VoiceCache(tmp_path / ".voices", models).voice(*audio)
    assert len(prepared) == 1
    assert same(voice, prepared[0])
    assert same(again, voice)


def test_it_is_prepared_anew_for_other_audio_weights_or_format(
    models: Models,
    audio: tuple[Samples, int],
    tmp_path: Path,
    prepared: list[ChatterboxVoice],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache = VoiceCache(tmp_path, models)
    cache.voice(*audio)
    cache.voice(audio[0] * np.float32(0.5), audio[1])
    cache.voice(audio[0], audio[1] + 1)
    VoiceCache(tmp_path, dataclasses.replace(models, digest="another")).voice(*audio)
    monkeypatch.setattr(VoiceCache, "FORMAT", VoiceCache.FORMAT + 1)
    cache.voice(*audio)
    assert len(prepared) == len(list(tmp_path.iterdir())) == 5


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 100,
        safetensors.torch.save({"prompt_token": torch.zeros(1, 10)}),
        safetensors.torch.save({name: torch.zeros(1, 2, 3) for name in voices._SHAPES}),
    ],
)
def test_a_corrupt_file_is_written_anew(
    models: Models,
    audio: tuple[Samples, int],
    tmp_path: Path,
    prepared: list[ChatterboxVoice],
    caplog: pytest.LogCaptureFixture,
    content: bytes,
) -> None:
    cache = VoiceCache(tmp_path, models)
    voice = cache.voice(*audio)
    (path,) = tmp_path.iterdir()
    path.write_bytes(content)
    assert same(cache.voice(*audio), voice)
    assert same(cache.voice(*audio), voice)
    assert len(prepared) == 2
    assert caplog.text.count("preparing that voice again") == 1


def test_where_nothing_can_be_written_there_is_no_cache(
    models: Models,
    audio: tuple[Samples, int],
    tmp_path: Path,
    prepared: list[ChatterboxVoice],
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "file").touch()
    cache = VoiceCache(tmp_path / "file" / ".voices", models)
    with caplog.at_level(logging.INFO):
        voice = cache.voice(*audio)
        assert same(cache.voice(*audio), voice)
    assert len(prepared) == 2
    assert caplog.text.count("no prepared voice is kept") == 1


def test_those_not_used_for_longest_go(
    models: Models,
    audio: tuple[Samples, int],
    tmp_path: Path,
    prepared: list[ChatterboxVoice],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(VoiceCache, "LIMIT", 2)
    cache = VoiceCache(tmp_path, models)
    samples, rate = audio
    cache.voice(samples, rate)
    cache.voice(samples, rate + 1)
    for path in tmp_path.iterdir():
        os.utime(path, (1, 1))
    cache.voice(samples, rate)  # used, so the other one is the oldest
    cache.voice(samples, rate + 2)
    assert len(list(tmp_path.iterdir())) == 2
    cache.voice(samples, rate)
    cache.voice(samples, rate + 2)
    assert len(prepared) == 3
