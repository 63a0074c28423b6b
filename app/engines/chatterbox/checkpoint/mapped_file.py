"""Memory-mapped safetensors files, for weights that a CPU reads only once or now and then."""

import json
import mmap
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


class MappedSafetensors:
    """A valid safetensors file as tensors in mapped memory, which must not be written to."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            # Copy-on-write although nothing is written: torch warns of read-only memory.
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        self._begin = 8 + int.from_bytes(self._map[:8], "little")
        self._header = json.loads(self._map[8 : self._begin])
        self._header.pop("__metadata__", None)  # free text

    def tensors(self, prefix: str = "") -> dict[str, Tensor]:
        """The float32 tensors whose names begin with `prefix`, keyed by the rest."""
        return {
            name.removeprefix(prefix): self._tensor(**entry)
            for name, entry in self._header.items()
            if name.startswith(prefix) and entry.get("dtype") == "F32"
        }

    def release_pages(self) -> None:
        """Drop the file's pages from this process; they are read again when used."""
        self._map.madvise(mmap.MADV_DONTNEED)

    def _tensor(self, shape: list[int], data_offsets: tuple[int, int], **_: Any) -> Tensor:
        first, end = data_offsets
        if first == end:
            return torch.empty(shape)
        flat = torch.frombuffer(
            self._map, dtype=torch.float32, count=(end - first) // 4, offset=self._begin + first
        )
        return flat.view(shape)


def offload_blocks(blocks: nn.ModuleList, path: Path, prefix: str) -> None:
    """Map the weights of `blocks` from `path` and release their pages after each block's forward.

    The blocks may then be used by one thread at a time.
    """
    file = MappedSafetensors(path)
    for index, block in enumerate(blocks):
        block.load_state_dict(file.tensors(f"{prefix}{index}."), strict=False, assign=True)
        block.requires_grad_(False)
        block.register_forward_hook(lambda *_: file.release_pages())
