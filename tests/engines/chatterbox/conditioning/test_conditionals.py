from pathlib import Path

import pytest
import torch

from app.core.audio import Samples
from app.engines.chatterbox.checkpoint.models import Models
from app.engines.chatterbox.conditioning.conditionals import builtin_conditionals
from app.engines.chatterbox.conditioning.prepare import prepare
from tests.engines.chatterbox.conditioning.test_cache import same


def test_limited_prompt_is_the_beginning_of_the_full_one(
    models: Models, austen: tuple[Samples, int]
) -> None:
    samples, rate = austen
    full = prepare(models, samples, rate)
    limited = full.limit_prompt(3)
    assert same(full.limit_prompt(10), full)
    assert limited.s3gen.prompt_token.tolist() == [full.s3gen.prompt_token[0, :75].tolist()]
    assert torch.equal(limited.s3gen.prompt_feat, full.s3gen.prompt_feat[:, :150])
    for name in ("speaker_embedding", "prompt_tokens"):
        assert getattr(limited, name) is getattr(full, name)
    assert limited.s3gen.embedding is full.s3gen.embedding


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
def test_saved_conditionals_with_a_wrong_shape_are_rejected(
    tiny_checkpoint: Path, group: str, name: str, value: torch.Tensor
) -> None:
    saved = torch.load(tiny_checkpoint / "conds.pt", weights_only=True)
    builtin_conditionals(saved)
    saved[group][name] = value
    with pytest.raises(ValueError, match=r"is not a tensor of shape|frames for"):
        builtin_conditionals(saved)


def test_saved_conditionals_with_nan_are_rejected(tiny_checkpoint: Path) -> None:
    saved = torch.load(tiny_checkpoint / "conds.pt", weights_only=True)
    saved["gen"]["embedding"][0, 7] = torch.nan
    with pytest.raises(ValueError, match="embedding contains NaN"):
        builtin_conditionals(saved)
