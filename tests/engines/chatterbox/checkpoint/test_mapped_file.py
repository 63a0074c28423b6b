import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from app.engines.chatterbox.checkpoint.mapped_file import MappedSafetensors, offload_blocks
from app.engines.chatterbox.conditioning.prepare import prepare
from tests.engines.chatterbox.checkpoint.test_loader import tensors

MB = 1_000_000


@pytest.fixture
def weights():
    torch.manual_seed(1)
    return {
        "0.weight": torch.rand(1000, 1000),
        "0.bias": torch.rand(1000),
        "1.weight": torch.rand(1000, 1000),
        "1.bias": torch.rand(1000),
        "a.count": torch.tensor(3),
        "a.none": torch.empty(0, 4),
    }


@pytest.fixture
def path(tmp_path, weights):
    save_file(weights, tmp_path / "some.safetensors")
    return tmp_path / "some.safetensors"


def in_memory(path: Path) -> int:
    """Bytes of the file in this process's resident memory."""
    mappings = re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text())
    sizes = [re.search(r"^Rss:\s+(\d+) kB$", m, re.M) for m in mappings if str(path) in m]
    return sum(int(size[1]) * 1024 for size in sizes if size)


def test_returns_the_float32_tensors(path, weights):
    read = MappedSafetensors(path).tensors()
    del weights["a.count"]
    assert read.keys() == weights.keys()
    assert all(torch.equal(read[name], weights[name]) for name in weights)


def test_metadata_is_not_a_tensor(tmp_path):
    path = tmp_path / "described.safetensors"
    save_file({"a": torch.ones(3)}, path, metadata={"dtype": "F32"})
    assert MappedSafetensors(path).tensors().keys() == {"a"}


def test_released_pages_are_read_again(path, weights):
    file = MappedSafetensors(path)
    read = file.tensors("0.")
    assert torch.equal(read["weight"], weights["0.weight"])
    assert in_memory(path) > 3 * MB
    file.release_pages()
    assert in_memory(path) < MB
    assert torch.equal(read["weight"], weights["0.weight"])


@torch.inference_mode()
def test_offloaded_blocks_use_memory_only_during_forward(path, weights):
    blocks = nn.ModuleList([nn.Linear(1000, 1000), nn.Linear(1000, 1000)])
    offload_blocks(blocks, path, "")
    peak = 0

    def watch(*_: object) -> None:
        nonlocal peak
        peak = max(peak, in_memory(path))

    x = torch.rand(1, 1000)
    torch.nn.functional.linear(x, blocks[0].weight)  # a block that is not called
    blocks[1].register_forward_pre_hook(watch)
    for index in (0, 1):
        y = blocks[index](x)
        expected = torch.nn.functional.linear(
            x, weights[f"{index}.weight"], weights[f"{index}.bias"]
        )
        torch.testing.assert_close(y, expected)  # rounding depends on where a weight lies
        assert in_memory(path) < MB
    assert peak < MB


@torch.inference_mode()
def test_release_changes_no_weight_and_no_result(models):
    before = {name: tensor.clone() for name, tensor in tensors(models.s3gen).items()}
    samples = torch.rand(48_000, generator=torch.Generator().manual_seed(1)).numpy()
    voice = prepare(models, samples, 24_000)
    for file in models.mapped_files:
        file.release_pages()
    after = tensors(models.s3gen)
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    again = prepare(models, samples, 24_000)
    assert torch.equal(voice.prompt_tokens, again.prompt_tokens)
    assert torch.equal(voice.s3gen.prompt_feat, again.s3gen.prompt_feat)
