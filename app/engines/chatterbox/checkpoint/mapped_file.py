"""Memory-mapped files of weights, for weights that a CPU reads only once or now and then."""

import json
import mmap
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from torch import Tensor, nn

from app.core.native import release_mapped_pages


class MappedFile(Protocol):
    """A valid file's tensors in mapped memory, which must not be written to."""

    def tensors(self, prefix: str = "") -> dict[str, Tensor]:
        """The float32 tensors whose names begin with `prefix`, keyed by the rest."""
        ...

    def read(self, name: str) -> Tensor:
        """A copy of one tensor, of any type."""
        ...

    def release_pages(self) -> None:
        """Drop the file's pages from this process; they are read again when used."""
        ...


class MappedSafetensors:
    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as file:
            # Copy-on-write although nothing is written: torch warns of read-only memory.
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        self._begin = 8 + int.from_bytes(self._map[:8], "little")
        self._header = json.loads(self._map[8 : self._begin])
        self._header.pop("__metadata__", None)  # free text

    def tensors(self, prefix: str = "") -> dict[str, Tensor]:
        return {
            name.removeprefix(prefix): self._tensor(**entry)
            for name, entry in self._header.items()
            if name.startswith(prefix) and entry.get("dtype") == "F32"
        }

    def read(self, name: str) -> Tensor:
        with safe_open(self._path, framework="pt") as file:  # type: ignore[no-untyped-call]
            tensor: Tensor = file.get_tensor(name)
        return tensor

    def release_pages(self) -> None:
        self._map.madvise(mmap.MADV_DONTNEED)

    def _tensor(self, shape: list[int], data_offsets: tuple[int, int], **_: Any) -> Tensor:
        first, end = data_offsets
        if first == end:
            return torch.empty(shape)
        flat = torch.frombuffer(
            self._map, dtype=torch.float32, count=(end - first) // 4, offset=self._begin + first
        )
        return flat.view(shape)


class MappedPickle:
    """A file of `torch.save`; one in torch's format before 1.6 is read into memory."""

    def __init__(self, path: Path) -> None:
        self._mapped = zipfile.is_zipfile(path)
        self._tensors = load_pickle(path)

    def tensors(self, prefix: str = "") -> dict[str, Tensor]:
        return {
            name.removeprefix(prefix): tensor
            for name, tensor in self._tensors.items()
            if name.startswith(prefix) and tensor.dtype is torch.float32
        }

    def read(self, name: str) -> Tensor:
        tensor = self._tensors[name].clone()
        self.release_pages()
        return tensor

    def release_pages(self) -> None:
        storages = [tensor.untyped_storage() for tensor in self._tensors.values()]
        if self._mapped and storages:
            begin = min(storage.data_ptr() for storage in storages if storage.nbytes())
            end = max(storage.data_ptr() + storage.nbytes() for storage in storages)
            release_mapped_pages(begin, end)


def load_pickle(path: Path) -> dict[str, Tensor]:
    """The weights in a file of `torch.save`, on the CPU, mapped where the format allows it."""
    mapped = zipfile.is_zipfile(path)
    weights: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    if "model" in weights:  # as in early checkpoints
        weights = weights["model"][0]
    if not all(isinstance(tensor, Tensor) for tensor in weights.values()):
        raise ValueError("not all of its entries are tensors")
    return dict(weights)


MAPPED_FILES: dict[str, Callable[[Path], MappedFile]] = {
    ".safetensors": MappedSafetensors,
    ".pt": MappedPickle,
}
"""By the file's suffix."""


def map_file(path: Path) -> MappedFile:
    return MAPPED_FILES[path.suffix](path)


def offload_blocks(blocks: nn.ModuleList, path: Path, prefix: str) -> None:
    """Map the weights of `blocks` from `path` and release their pages after each block's forward.

    The blocks may then be used by one thread at a time.
    """
    file = map_file(path)
    for index, block in enumerate(blocks):
        block.load_state_dict(file.tensors(f"{prefix}{index}."), strict=False, assign=True)
        block.requires_grad_(False)
        block.register_forward_hook(lambda *_: file.release_pages())
