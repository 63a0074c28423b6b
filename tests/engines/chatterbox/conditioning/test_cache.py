import logging
import os
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
    voice = ConditionalsDiskCache(tmp_path / ".voices", models).get(*audio)
    again = ConditionalsDiskCache(tmp_path / ".voices", models).get(*audio)
    assert len(prepared) == 1
    assert same(voice, prepared[0])
    assert same(again, voice)


def test_voice_is_prepared_again_for_other_audio_weights_or_format(
    models: Models,
    audio: tuple[Samples, int],
    tmp_path: Path,
    prepared: list[Conditionals],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache = ConditionalsDiskCache(tmp_path, models)
    cache.get(*audio)
    cache.get(audio[0] * np.float32(0.5), audio[1])
    cache.get(audio[0], audio[1] + 1)
    ConditionalsDiskCache(tmp_path, replace(models, digest="another")).get(*audio)
    monkeypatch.setattr(ConditionalsDiskCache, "FORMAT", ConditionalsDiskCache.FORMAT + 1)
    cache.get(*audio)
    assert len(prepared) == len(list(tmp_path.iterdir())) == 5


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
    cache = ConditionalsDiskCache(tmp_path, models)
    voice = cache.get(*audio)
    (path,) = tmp_path.iterdir()
    path.write_bytes(content)
    assert same(cache.get(*audio), voice)
    assert same(cache.get(*audio), voice)
    assert len(prepared) == 2
    assert caplog.text.count("preparing that voice again") == 1


def test_unwritable_folder_disables_the_cache(
    models: Models,
    audio: tuple[Samples, int],
    tmp_path: Path,
    prepared: list[Conditionals],
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "file").touch()
    cache = ConditionalsDiskCache(tmp_path / "file" / ".voices", models)
    with caplog.at_level(logging.INFO):
        voice = cache.get(*audio)
        assert same(cache.get(*audio), voice)
    assert len(prepared) == 2
    assert caplog.text.count("prepared voices are not cached") == 1


def test_least_recently_used_files_are_deleted(
    models: Models,
    audio: tuple[Samples, int],
    tmp_path: Path,
    prepared: list[Conditionals],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ConditionalsDiskCache, "LIMIT", 2)
    cache = ConditionalsDiskCache(tmp_path, models)
    samples, rate = audio
    cache.get(samples, rate)
    cache.get(samples, rate + 1)
    for path in tmp_path.iterdir():
        os.utime(path, (1, 1))
    cache.get(samples, rate)  # used, so the other one is the oldest
    cache.get(samples, rate + 2)
    assert len(list(tmp_path.iterdir())) == 2
    cache.get(samples, rate)
    cache.get(samples, rate + 2)
    assert len(prepared) == 3
