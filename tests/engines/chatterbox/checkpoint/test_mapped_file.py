import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from app.engines.chatterbox.checkpoint.loader import Models
from app.engines.chatterbox.checkpoint.mapped_file import WeightsFile, let_go_one_by_one
from app.engines.chatterbox.conditioning.conditionals import prepare
from tests.engines.chatterbox.checkpoint.test_loader import tensors

MB = 1_000_000


@pytest.fixture
def weights() -> dict[str, Tensor]:
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
def path(tmp_path: Path, weights: dict[str, Tensor]) -> Path:
    save_file(weights, tmp_path / "some.safetensors")
    return tmp_path / "some.safetensors"


def in_memory(path: Path) -> int:
    """How many bytes of the file this process has in memory."""
    mappings = re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text())
    sizes = [re.search(r"^Rss:\s+(\d+) kB$", m, re.M) for m in mappings if str(path) in m]
    return sum(int(size[1]) * 1024 for size in sizes if size)


def test_it_has_what_was_saved_in_float32(path: Path, weights: dict[str, Tensor]) -> None:
    read = WeightsFile(path).tensors()
    del weights["a.count"]
    assert read.keys() == weights.keys()
    assert all(torch.equal(read[name], weights[name]) for name in weights)


def test_what_it_says_of_itself_is_no_tensor(tmp_path: Path) -> None:
    path = tmp_path / "described.safetensors"
    save_file({"a": torch.ones(3)}, path, metadata={"dtype": "F32"})
    assert WeightsFile(path).tensors().keys() == {"a"}


def test_what_was_let_go_is_read_again(path: Path, weights: dict[str, Tensor]) -> None:
    file = WeightsFile(path)
    read = file.tensors("0.")
    assert torch.equal(read["weight"], weights["0.weight"])
    assert in_memory(path) > 3 * MB
    file.let_go()
    assert in_memory(path) < MB
    assert torch.equal(read["weight"], weights["0.weight"])


@torch.inference_mode()
def test_blocks_have_their_weights_only_while_they_compute(
    path: Path, weights: dict[str, Tensor]
) -> None:
    blocks = nn.ModuleList([nn.Linear(1000, 1000), nn.Linear(1000, 1000)])
    let_go_one_by_one(blocks, path, "")
    most = 0

    def watch(*_: object) -> None:
        nonlocal most
        most = max(most, in_memory(path))

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
    assert most < MB


@torch.inference_mode()
def test_a_model_that_worked_is_as_it_was(models: Models) -> None:
    before = {name: tensor.clone() for name, tensor in tensors(models.s3gen).items()}
    samples = torch.rand(48_000, generator=torch.Generator().manual_seed(1)).numpy()
    voice = prepare(models, samples, 24_000)
    models.let_files_go()
    after = tensors(models.s3gen)
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    again = prepare(models, samples, 24_000)
    assert torch.equal(voice.prompt_tokens, again.prompt_tokens)
    assert torch.equal(voice.s3gen.prompt_feat, again.s3gen.prompt_feat)
