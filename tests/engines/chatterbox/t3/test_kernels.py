"""The kernels of int8 decoding against upstream's T3 with the same, dequantised weights."""

import copy

import pytest
import torch

from app.bench.checkpoint import tiny_sizes
from app.engines.chatterbox.checkpoint.loader import load
from app.engines.chatterbox.runtime.linear import Int8Linear, replace_linears
from tests.engines.chatterbox.t3.conftest import TINY_TURBO
from tests.engines.chatterbox.t3.reference import logit_error

MAX_ERROR = 1e-5
"""As a share of the logits' range."""


def dequantised(upstream, t3):
    """A copy of upstream's T3 with the weights that `t3` computes with."""
    upstream = copy.deepcopy(upstream)
    for name, layer in t3.named_modules():
        if isinstance(layer, Int8Linear):
            own = upstream.get_submodule(name)
            weight = layer.weight * layer.scale[:, None]
            own.weight.data = weight if isinstance(own, torch.nn.Linear) else weight.T.contiguous()
    return upstream


def test_llama(tiny_checkpoint, upstream_t3, request_for):
    with tiny_sizes():
        t3 = load(tiny_checkpoint, "cpu", "int8").t3
    assert logit_error(t3, dequantised(upstream_t3, t3), request_for()) < MAX_ERROR
    assert logit_error(t3, upstream_t3, request_for()) > MAX_ERROR


def test_gpt2(load_turbo, turbo_file, upstream_turbo, turbo_request_for):
    t3 = load_turbo()
    replace_linears(t3, Int8Linear, turbo_file, "tfmr.", "speech_head")
    upstream, request = dequantised(upstream_turbo, t3), turbo_request_for()
    assert logit_error(t3, upstream, request, TINY_TURBO) < MAX_ERROR
    assert logit_error(t3, upstream_turbo, request, TINY_TURBO) > MAX_ERROR


@pytest.mark.parametrize("positions", [1, 3, 40])
def test_linear_layer(positions):
    generator = torch.Generator().manual_seed(0)
    weight, x = (torch.randn(size, generator=generator) for size in ((50, 33), (2, positions, 33)))
    layer = Int8Linear(weight, None)
    expected = x @ (layer.weight * layer.scale[:, None]).T
    assert torch.allclose(layer(x), expected, atol=1e-5)
