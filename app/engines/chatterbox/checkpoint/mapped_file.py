"""Weights in a safetensors file, which take memory of the process only while they are used.

Called by the loader on a CPU, where the modules compute with the file itself. Much of it is read
once, to be packed or folded, and half of S3Gen's only when a voice is cloned.
"""

import json
import mmap
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


class WeightsFile:
    """A safetensors file that is known to be whole. Nobody may write into its tensors."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            # A private copy in name only: torch warns of memory that cannot be written.
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        self._begin = 8 + int.from_bytes(self._map[:8], "little")
        self._header = json.loads(self._map[8 : self._begin])
        self._header.pop("__metadata__", None)  # any text, under any names

    def tensors(self, prefix: str = "") -> dict[str, Tensor]:
        """Those in float32 whose names begin so, by the rest of their names."""
        return {
            name.removeprefix(prefix): self._tensor(**entry)
            for name, entry in self._header.items()
            if name.startswith(prefix) and entry.get("dtype") == "F32"
        }

    def let_go(self) -> None:
        """Take no memory for it. What is used again comes from the system's cache, or the disk."""
        self._map.madvise(mmap.MADV_DONTNEED)

    def _tensor(self, shape: list[int], data_offsets: tuple[int, int], **_: Any) -> Tensor:
        first, end = data_offsets
        if first == end:
            return torch.empty(shape)
        flat = torch.frombuffer(
            self._map, dtype=torch.float32, count=(end - first) // 4, offset=self._begin + first
        )
        return flat.view(shape)


def let_go_one_by_one(blocks: nn.ModuleList, path: Path, prefix: str) -> None:
    """Let the `blocks` have the weights in `path` under that prefix, but only while each computes.

    For one thread at a time.
    """
    file = WeightsFile(path)
    for index, block in enumerate(blocks):
        block.load_state_dict(file.tensors(f"{prefix}{index}."), strict=False, assign=True)
        block.requires_grad_(False)
        block.register_forward_hook(lambda *_: file.let_go())
