"""Prepared voices on disk, so that a restarted worker need not prepare them again."""

import hashlib
import logging
import os
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import numpy as np
import safetensors.torch
from safetensors import SafetensorError

from app.core.audio import Samples
from app.engines.chatterbox.checkpoint.models import Models
from app.engines.chatterbox.conditioning.conditionals import (
    TENSOR_SHAPES,
    Conditionals,
    from_tensors,
)
from app.engines.chatterbox.conditioning.prepare import prepare

log = logging.getLogger(__name__)


class ConditionalsDiskCache:
    """Files of 170 KB, shared by all workers; beyond `LIMIT`, the least recently used go."""

    FORMAT = 1
    """To be raised when `prepare` gives other numbers for the same audio and weights."""

    LIMIT = 1000

    def __init__(self, folder: Path, models: Models) -> None:
        self._folder = folder
        self._models = models
        self._writable = True

    def get(self, samples: Samples, rate: int) -> Conditionals:
        """Return what `prepare` returns for this audio, from disk if it is there."""
        path = self._folder / f"{self._key(samples, rate)}.safetensors"
        conditionals = self._load(path)
        if conditionals is None:
            conditionals = prepare(self._models, samples, rate)
            self._store(path, conditionals)
        return conditionals

    def _key(self, samples: Samples, rate: int) -> str:
        key = hashlib.sha256(repr((self.FORMAT, self._models.digest, rate)).encode())
        key.update(np.ascontiguousarray(samples).data)
        return key.hexdigest()

    def _load(self, path: Path) -> Conditionals | None:
        try:
            tensors = safetensors.torch.load(path.read_bytes())
            conditionals = from_tensors(
                {name: tensor.to(self._models.device) for name, tensor in tensors.items()}
            )
        except OSError:
            return None
        except (SafetensorError, KeyError, ValueError) as error:
            log.warning("%s cannot be used (%s): preparing that voice again", path, error)
            return None
        with suppress(OSError):  # the folder may be read-only
            os.utime(path)
        return conditionals

    def _store(self, path: Path, conditionals: Conditionals) -> None:
        if not self._writable:
            return
        named = vars(conditionals) | vars(conditionals.s3gen)
        content = safetensors.torch.save({name: named[name].contiguous() for name in TENSOR_SHAPES})
        part = path.with_name(uuid4().hex)
        try:
            self._folder.mkdir(exist_ok=True)
            part.write_bytes(content)
            part.replace(path)
            self._evict()
        except OSError as error:
            self._writable = False
            log.warning("prepared voices are not cached in %s: %s", self._folder, error.strerror)

    def _evict(self) -> None:
        ages = []
        for path in self._folder.iterdir():
            with suppress(FileNotFoundError):  # another worker evicts, too
                ages.append((path.stat().st_mtime_ns, path))
        for _, path in sorted(ages)[: -self.LIMIT]:
            path.unlink(missing_ok=True)
