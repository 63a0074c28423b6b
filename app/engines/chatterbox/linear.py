"""Linear layers for the CPU: upstream's enter, faster ones with their weights leave.

    replace_linears(t3, PackedLinear, file, "tfmr.")    the same function, but for rounding
    replace_linears(t3, Int8Linear, file, "tfmr.")      an approximation, in a quarter of the memory

Called by the loader. What either computes for a row depends on that row alone, bit by bit, so that
a job's tokens do not depend on the company it is in.
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
