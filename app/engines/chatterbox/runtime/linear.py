"""Linear layers: upstream's enter, faster ones with their weights leave.

    replace_linears(t3, PackedLinear, file, "tfmr.")    on a CPU the same function, but for rounding
    replace_linears(t3, Int8Linear, file, "tfmr.")      an approximation, in a quarter of the memory
    use_bfloat16(t3.tfmr)                               products in bfloat16, on any device

Called by the loader. What the first two compute for a row depends on that row alone, bit by bit, so
that a job's tokens do not depend on the company it is in.
"""

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

Replacement = Callable[[Tensor, Tensor | None], nn.Module]
"""Of a layer's weight, float32 [out, in], and its bias, [out]."""


class PackedLinear(nn.Module):
    """Computed by oneDNN, from weights in the order in which it reads them.

    torch leaves float32 to MKL, which uses half of the width of an AMD processor's vectors: 2.3
    times slower in S3Gen's layers. On Intel's both are about as fast.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features = len(weight)
        packed = torch.ops.mkldnn._reorder_linear_weight(weight)
        self.register_buffer("weight", packed, persistent=False)
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """float32 [..., in] → float32 [..., out]."""
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return y


class Int8Linear(nn.Module):
    """Weights of eight bits, with a scale for each output; everything else is bfloat16."""

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features = len(weight)
        scale = (torch.linalg.vector_norm(weight, torch.inf, 1).clamp(min=1e-12) / 127).bfloat16()
        blocks = zip(torch.split(weight, _BLOCK), torch.split(scale.float(), _BLOCK), strict=True)
        rounded = torch.cat([_rounded(rows, steps) for rows, steps in blocks])
        self.register_buffer("weight", rounded, persistent=False)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """float32 [rows, n, in] → float32 [rows, n, out].

        A step has n = 1 and waits for memory; a prompt has many and is quicker multiplied out.
        """
        few = x.bfloat16()
        if x.shape[1] == 1:
            y = torch._weight_int8pack_mm(few[:, 0], self.weight, self.scale)[:, None]
        else:
            y = F.linear(few, self.weight.bfloat16() * self.scale[:, None])
        y = y.float()
        return y if self.bias is None else y + self.bias


_BLOCK = 64
"""Rows that are rounded at a time: larger intermediate results leave a GB of holes in the heap."""


def _rounded(rows: Tensor, steps: Tensor) -> Tensor:
    """int8 [n, in] of float32 [n, in], as multiples of `steps`, [n]."""
    return (rows / steps[:, None]).round_().clamp_(-127, 127).to(torch.int8)


class Bfloat16Linear(nn.Module):
    """A product in bfloat16, which leaves it so; sums beside it and norms stay as they are.

    Of `layers` that have the same input: their outputs beside each other.
    """

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
        """float32 or bfloat16 [..., in] → bfloat16 [..., out]."""
        return F.linear(x.bfloat16(), self.weight, self.bias)


class Bfloat16Conv1d(Bfloat16Linear):
    """A convolution as such a product, float32 [rows, in, n] → float32 [rows, out, n].

    `padding`: zeros before and after; the layer itself has none, nor strides.
    """

    def __init__(self, layer: nn.Conv1d, padding: tuple[int, int]) -> None:
        flat = nn.Linear(layer.weight[0].numel(), len(layer.weight), device=layer.weight.device)
        flat.load_state_dict({"weight": layer.weight.flatten(1), "bias": layer.bias})
        super().__init__(flat)
        self._padding = padding
        (self._reach,) = layer.kernel_size

    def forward(self, x: Tensor) -> Tensor:
        windows = F.pad(x, self._padding).transpose(1, 2).unfold(1, self._reach, 1)
        return super().forward(windows.flatten(2)).transpose(1, 2).float()


TOGETHER = "together_"


def use_bfloat16(module: nn.Module, *joined: tuple[str, ...]) -> None:
    """Replace the linear layers and convolutions in `module`.

    `joined`: names of layers in one module that have the same input; see `together`.
    """
    for parent in list(module.modules()):
        for names in joined:
            if all(hasattr(parent, name) for name in names):
                layers = [getattr(parent, name) for name in names]
                setattr(parent, TOGETHER + names[0], Bfloat16Linear(*layers))
                for name in names:
                    delattr(parent, name)
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.Linear):
                setattr(parent, name, Bfloat16Linear(layer))
            elif isinstance(layer, nn.Conv1d):
                padding = getattr(layer, "causal_padding", (0, 0))
                setattr(parent, name, Bfloat16Conv1d(layer, padding))


def together(parent: nn.Module, *names: str) -> nn.ModuleList:
    """The layers of these names, or the one that does the work of all of them."""
    if hasattr(parent, TOGETHER + names[0]):
        return nn.ModuleList([getattr(parent, TOGETHER + names[0])])
    return nn.ModuleList([getattr(parent, name) for name in names])


def is_bfloat16(layer: nn.Module) -> bool:
    """Whether it leaves its results in that type."""
    return isinstance(layer, Bfloat16Linear)


def knows_onednn(device: str) -> bool:
    """Whether torch can leave something on that device to it."""
    return device == "cpu" and torch._C._has_mkldnn


def replace_linears(
    module: nn.Module, replacement: Replacement, file: Path, *prefixes: str
) -> None:
    """Replace the linear layers of `module`, whose weights are in `file` under their names.

    Only those whose names begin with one of `prefixes`.

    Each weight is read again, alone, so that it leaves the memory when its successor is made.
    """
    for name, layer in list(module.named_modules()):
        if isinstance(layer, nn.Linear) and name.startswith(prefixes):
            with safe_open(file, framework="pt") as tensors:  # type: ignore[no-untyped-call]
                weight = tensors.get_tensor(f"{name}.weight").float()
            parent, _, attribute = name.rpartition(".")
            setattr(module.get_submodule(parent), attribute, replacement(weight, layer.bias))
