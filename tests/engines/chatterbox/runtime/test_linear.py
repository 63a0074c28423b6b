from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from app.engines.chatterbox.runtime.linear import Int8Linear, PackedLinear, replace_linears


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return nn.Linear(256, 192).requires_grad_(False)


def rows(count, positions=1, width=256):
    return torch.randn(count, positions, width, generator=torch.Generator().manual_seed(1))


def relative_error(own, layer, x):
    expected = layer(x)
    return float((own(x) - expected).norm() / expected.norm())


@pytest.mark.parametrize(("kind", "max_error"), [(PackedLinear, 1e-6), (Int8Linear, 0.01)])
@pytest.mark.parametrize("positions", [1, 50])
@torch.inference_mode()
def test_replacement_computes_the_same(layer, kind, max_error, positions):
    own = kind(layer.weight, layer.bias)
    assert relative_error(own, layer, rows(4, positions)) < max_error


@pytest.mark.parametrize("kind", [PackedLinear, Int8Linear])
@torch.inference_mode()
def test_replacement_computes_the_same_without_bias(layer, kind):
    layer.bias = None
    assert relative_error(kind(layer.weight, None), layer, rows(4)) < 0.01


@pytest.mark.parametrize("kind", [PackedLinear, Int8Linear])
@torch.inference_mode()
def test_row_does_not_depend_on_other_rows(layer, kind):
    own, x = kind(layer.weight, layer.bias), rows(64)
    for count in (1, 2, 4, 8, 32):
        assert torch.equal(own(x[:count]), own(x)[:count])


@torch.inference_mode()
def test_int8_has_one_scale_per_output(layer):
    layer.weight[0] *= 1000
    layer.weight[1] = 0
    layer.bias[:] = 0
    own, x = Int8Linear(layer.weight, layer.bias), rows(8)
    assert relative_error(lambda x: own(x)[..., 2:], lambda x: layer(x)[..., 2:], x) < 0.01
    assert own(x)[..., 1].abs().max() == 0
    assert own.weight.abs().max() == 127


@torch.inference_mode()
def test_only_layers_with_the_prefix_are_replaced(tmp_path: Path):
    module = nn.ModuleDict({"a": nn.Sequential(nn.Linear(8, 4)), "b": nn.Linear(8, 4)})
    file = tmp_path / "weights.safetensors"
    save_file(module.state_dict(), file)
    x = rows(2, width=8)
    expected = module["a"](x)
    replace_linears(module, PackedLinear, file, "a.")
    assert isinstance(module["a"][0], PackedLinear)
    assert isinstance(module["b"], nn.Linear)
    assert torch.allclose(module["a"](x), expected, atol=1e-6)
