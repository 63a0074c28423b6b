"""Replace a loaded model's linear layers by faster ones with the same weights.

    use_linears(t3.tfmr)                                GPT-2's Conv1D by linear layers, first
    replace_linears(t3, PackedLinear, file, "tfmr.")    float32 by oneDNN, on a CPU
    replace_linears(t3, Int8Linear, file, "tfmr.")      int8 weights, in a quarter of the memory
    convert_linears_to_bf16(t3.tfmr)                    bfloat16, on any device

With `PackedLinear` and `Int8Linear`, a row's result does not depend on the other rows of the batch,
bit for bit, so a job's tokens do not depend on the jobs beside it.
"""

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from app.engines.chatterbox.checkpoint.mapped_file import map_file
from app.engines.chatterbox.runtime.kernels import Int8Weights, linear

Replacement = Callable[[Tensor, Tensor | None], nn.Module]
"""Makes a layer of a weight, float32 [out, in], and a bias, float32 [out]."""


class PackedLinear(nn.Module):
    """A float32 linear layer computed by oneDNN from prepacked weights.

    torch's default, MKL, uses only half of an AMD processor's vector width and takes 2.3 times as
    long in S3Gen's layers.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features = len(weight)
        packed = torch.ops.mkldnn._reorder_linear_weight(weight)
        self.register_buffer("weight", packed, persistent=False)
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, x: Tensor, activation: str = "none") -> Tensor:
        """float32 [..., in] → float32 [..., out]. `activation`: "none" or "gelu"."""
        y: Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self.weight, self.bias, activation, [], "none"
        )
        return y


def linear_gelu(layer: nn.Module, x: Tensor) -> Tensor:
    """GELU (with the error function) of the layer's output, in one operation where there is one."""
    y: Tensor = layer(x, "gelu") if isinstance(layer, PackedLinear) else F.gelu(layer(x))
    return y


class Int8Linear(nn.Module):
    """Weight-only int8 quantisation with one scale per output.

    Decoding is bound by memory bandwidth: `kernels.linear` reads the int8 weights, with float32
    activations. A long prompt is not: its product takes float32 weights, dequantised for it.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor  # zero if the layer has none

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features = len(weight)
        scale = torch.linalg.vector_norm(weight, torch.inf, 1).clamp(min=1e-12) / 127
        blocks = zip(torch.split(weight, _BLOCK), torch.split(scale, _BLOCK), strict=True)
        quantised = torch.cat([_quantise(rows, scales) for rows, scales in blocks])
        self.register_buffer("weight", quantised, persistent=False)
        self.register_buffer("scale", scale, persistent=False)
        bias = torch.zeros_like(scale) if bias is None else bias.detach()
        self.register_buffer("bias", bias, persistent=False)

    @property
    def arrays(self) -> Int8Weights:
        return Int8Weights(self.weight.numpy(), self.scale.numpy(), self.bias.numpy())

    def forward(self, x: Tensor) -> Tensor:
        """float32 [rows, n, in] → float32 [rows, n, out]."""
        if x.shape[1] > _MAX_KERNEL_POSITIONS:
            return F.linear(x, self.weight.float() * self.scale[:, None], self.bias)
        y = linear(self.arrays, x.flatten(0, 1).numpy())
        return torch.from_numpy(y).view(*x.shape[:2], -1)


ROW_INDEPENDENT = (PackedLinear, Int8Linear)
"""Layers that compute a row equally in a batch of any size."""

_MAX_KERNEL_POSITIONS = 32
"""For longer prompts, dequantising all weights takes less time than the kernel."""

_BLOCK = 64
"""Rows quantised at a time: larger temporary tensors leave the heap fragmented, by about 1 GB."""


def _quantise(rows: Tensor, scales: Tensor) -> Tensor:
    """float32 [n, in] and a scale per row, float32 [n] → int8 [n, in]."""
    return (rows / scales[:, None]).round_().clamp_(-127, 127).to(torch.int8)


class Bfloat16Linear(nn.Module):
    """A layer of bfloat16 weights and output; outputs of several `layers` are concatenated."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, *layers: nn.Linear) -> None:
        super().__init__()
        weight = torch.cat(tuple(layer.weight for layer in layers)).bfloat16()
        biases = tuple(layer.bias for layer in layers if layer.bias is not None)
        bias = torch.cat(biases).bfloat16() if biases else None
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.bfloat16(), self.weight, self.bias)


class Bfloat16Conv1d(Bfloat16Linear):
    """A convolution without stride: float32 [rows, in, n] → float32 [rows, out, n]."""

    def __init__(self, layer: nn.Conv1d, padding: tuple[int, int]) -> None:
        flat = nn.Linear(layer.weight[0].numel(), len(layer.weight), device=layer.weight.device)
        flat.load_state_dict({"weight": layer.weight.flatten(1), "bias": layer.bias})
        super().__init__(flat)
        self._padding = padding
        (self._kernel_size,) = layer.kernel_size

    def forward(self, x: Tensor) -> Tensor:
        windows = F.pad(x, self._padding).transpose(1, 2).unfold(1, self._kernel_size, 1)
        return super().forward(windows.flatten(2)).transpose(1, 2).float()


class LinearOfConv1D(nn.Linear):
    """GPT-2's layer (transformers' Conv1D) as a linear one; a file holds its weight transposed."""


def linear_of_conv1d(layer: Conv1D) -> LinearOfConv1D:
    """A linear layer that shares the memory of `layer`."""
    linear = LinearOfConv1D(layer.nx, layer.nf, device="meta")
    linear.weight = nn.Parameter(layer.weight.T, requires_grad=False)
    linear.bias = layer.bias
    return linear.train(layer.training)


def use_linears(module: nn.Module) -> None:
    """Replace each Conv1D in `module`, after its weights were loaded."""
    for parent in list(module.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, Conv1D):
                setattr(parent, name, linear_of_conv1d(layer))


FUSED_PREFIX = "fused_"


def convert_linears_to_bf16(module: nn.Module, *fused: tuple[str, ...]) -> None:
    """`fused`: names of layers of one submodule that have the same input and become one layer."""
    for parent in list(module.modules()):
        for names in fused:
            if all(hasattr(parent, name) for name in names):
                layers = [getattr(parent, name) for name in names]
                setattr(parent, FUSED_PREFIX + names[0], Bfloat16Linear(*layers))
                for name in names:
                    delattr(parent, name)
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.Linear):
                setattr(parent, name, Bfloat16Linear(layer))
            elif isinstance(layer, nn.Conv1d):
                padding = getattr(layer, "causal_padding", (0, 0))
                setattr(parent, name, Bfloat16Conv1d(layer, padding))


def fused_linears(parent: nn.Module, *names: str) -> nn.ModuleList:
    """The layers of these names, or the one layer that they were fused into."""
    if hasattr(parent, FUSED_PREFIX + names[0]):
        return nn.ModuleList([getattr(parent, FUSED_PREFIX + names[0])])
    return nn.ModuleList([getattr(parent, name) for name in names])


def has_onednn(device: str) -> bool:
    return device == "cpu" and torch._C._has_mkldnn


def replace_linears(
    module: nn.Module, replacement: Replacement, file: Path, *prefixes: str
) -> None:
    """Replace linear layers by name; weights are read again from `file`, to be freed one by one."""
    weights = map_file(file)
    for name, layer in list(module.named_modules()):
        if isinstance(layer, nn.Linear) and name.startswith(prefixes):
            weight = weights.read(f"{name}.weight").float()
            if isinstance(layer, LinearOfConv1D):
                weight = weight.T.contiguous()
            parent, _, attribute = name.rpartition(".")
            setattr(module.get_submodule(parent), attribute, replacement(weight, layer.bias))


def fuse_linears(
    module: nn.Module, replacement: Replacement, file: Path, prefix: str, *names: str
) -> None:
    """Replace the layers of `names` in each submodule by one whose output is theirs, concatenated.

    They have the same input and no bias. Weights are read as by `replace_linears`.
    """
    weights = map_file(file)
    for path, parent in list(module.named_modules()):
        if path.startswith(prefix) and all(hasattr(parent, name) for name in names):
            rows = [weights.read(f"{path}.{name}.weight").float() for name in names]
            setattr(parent, FUSED_PREFIX + names[0], replacement(torch.cat(rows), None))
            for name in names:
                delattr(parent, name)
