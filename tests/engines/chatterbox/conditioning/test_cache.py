import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from app.core.audio import Samples
from app.engines.chatterbox.checkpoint.models import Models
from app.engines.chatterbox.conditioning import cache as cache_module
from app.engines.chatterbox.conditioning.cache import ConditionalsDiskCache
from app.engines.chatterbox.conditioning.conditionals import TENSOR_SHAPES, Conditionals
from app.engines.chatterbox.conditioning.prepare import prepare


def same(one: Conditionals, other: Conditionals) -> bool:
    ours, theirs = (vars(v) | vars(v.s3gen) for v in (one, other))
    return all(torch.equal(ours[name], theirs[name]) for name in TENSOR_SHAPES)


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> list[Conditionals]:
    """All conditionals that were computed, not read, since the test began."""
    made: list[Conditionals] = []

    def counted(*args: Any) -> Conditionals:
        made.append(prepare(*args))
        return made[-1]

    monkeypatch.setattr(cache_module, "prepare", counted)
    return made


@pytest.fixture
def audio(austen: tuple[Samples, int]) -> tuple[Samples, int]:
    """2.02 s, which end within a token."""
    samples, rate = austen
    return samples[: int(2.02 * rate)], rate


def test_voice_is_prepared_once(
    models: Models, audio: tuple[Samples, int], tmp_path: Path, prepared: list[Conditionals]
) -> None:
    file = tmp_path / "voice"
    voice = ConditionalsDiskCache(models).get(*audio, file)
    again = ConditionalsDiskCache(models).get(*audio, file)
    assert len(prepared) == 1
    assert same(voice, prepared[0])
    assert same(again, voice)
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [file]


def test_voice_is_prepared_again_for_other_audio_weights_or_format(
    models: Models,
    audio: tuple[Samples, int],
    tmp_path: Path,
    prepared: list[Conditionals],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache, file = ConditionalsDiskCache(models), tmp_path / "voice"
    cache.get(*audio, file)
    cache.get(audio[0] * np.float32(0.5), audio[1], file)
    cache.get(audio[0], audio[1] + 1, file)
    ConditionalsDiskCache(replace(models, digest="another")).get(*audio, file)
    monkeypatch.setattr(ConditionalsDiskCache, "FORMAT", ConditionalsDiskCache.FORMAT + 1)
    cache.get(*audio, file)
    assert len(prepared) == 5
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 100,
        safetensors.torch.save({"prompt_token": torch.zeros(1, 10)}),
        safetensors.torch.save({name: torch.zeros(1, 2, 3) for name in TENSOR_SHAPES}),
    ],
)
def test_corrupt_file_is_rewritten(
    models: Models,
    audio: tuple[Samples, int],
    tmp_path: Path,
    prepared: list[Conditionals],
    caplog: pytest.LogCaptureFixture,
    content: bytes,
) -> None:
    cache, path = ConditionalsDiskCache(models), tmp_path / "voice"
    voice = cache.get(*audio, path)
    path.write_bytes(content)
    assert same(cache.get(*audio, path), voice)
    assert same(cache.get(*audio, path), voice)
    assert len(prepared) == 2
    assert caplog.text.count("preparing that voice again") == 1


def test_folder_that_cannot_be_written_is_logged_once(
    models: Models,
    audio: tuple[Samples, int],
    tmp_path: Path,
    prepared: list[Conditionals],
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "file").touch()
    cache, path = ConditionalsDiskCache(models), tmp_path / "file" / "voice"
    with caplog.at_level(logging.INFO):
        voice = cache.get(*audio, path)
        assert same(cache.get(*audio, path), voice)
    assert len(prepared) == 2
    assert caplog.text.count("prepared voices are not kept") == 1


def test_variants_do_not_use_each_others_files(
    models_of: Callable[[str], Models],
    austen: tuple[Samples, int],
    tmp_path: Path,
    prepared: list[Conditionals],
) -> None:
    file = tmp_path / "voice"
    for variant in ("chatterbox", "turbo"):
        ConditionalsDiskCache(models_of(variant)).get(*austen, file)
    assert len(prepared) == 2
    assert not same(*prepared)
