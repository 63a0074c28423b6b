"""Prepared voices on disk, so that a restarted worker need not prepare them again."""

import hashlib
import logging
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError

from app.core.audio import Samples
from app.core.private_file import private_opener
from app.engines.chatterbox.checkpoint.models import Models
from app.engines.chatterbox.conditioning.conditionals import (
    TENSOR_SHAPES,
    Conditionals,
    from_tensors,
)
from app.engines.chatterbox.conditioning.prepare import prepare

log = logging.getLogger(__name__)

_KEY = "key"
"""The name of the tensor that holds the hash of what the others were computed from."""


class ConditionalsDiskCache:
    """Files of 170 KB, for their owner only, shared by all workers.

    The caller, who names the file of a voice, also deletes it.
    """

    FORMAT = 1
    """To be raised when `prepare` gives other numbers for the same audio and weights."""

    def __init__(self, models: Models) -> None:
        self._models = models
        self._writable = True

    def get(self, samples: Samples, rate: int, path: Path) -> Conditionals:
        """Return what `prepare` returns for this audio, from the file if it has that."""
        key = self._key(samples, rate)
        conditionals = self._load(path, key)
        if conditionals is None:
            conditionals = prepare(self._models, samples, rate)
            self._store(path, key, conditionals)
        return conditionals

    def _key(self, samples: Samples, rate: int) -> bytes:
        key = hashlib.sha256(repr((self.FORMAT, self._models.digest, rate)).encode())
        key.update(np.ascontiguousarray(samples).data)
        return key.digest()

    def _load(self, path: Path, key: bytes) -> Conditionals | None:
        try:
            tensors = safetensors.torch.load(path.read_bytes())
            if bytes(tensors.pop(_KEY).tolist()) != key:
                return None
            return from_tensors(
                {name: tensor.to(self._models.device) for name, tensor in tensors.items()}
            )
        except OSError:
            return None
        except (SafetensorError, KeyError, ValueError) as error:
            log.warning("%s cannot be used (%s): preparing that voice again", path, error)
            return None

    def _store(self, path: Path, key: bytes, conditionals: Conditionals) -> None:
        named = vars(conditionals) | vars(conditionals.s3gen)
        tensors = {name: named[name].contiguous() for name in TENSOR_SHAPES}
        tensors[_KEY] = torch.tensor(list(key), dtype=torch.uint8)
        part = path.with_name(f".{uuid4().hex}")
        try:
            with open(part, "xb", opener=private_opener) as file:
                file.write(safetensors.torch.save(tensors))
            part.replace(path)
        except OSError as error:
            with suppress(OSError):
                part.unlink()
            if self._writable:
                log.warning("prepared voices are not kept in %s: %s", path.parent, error.strerror)
            self._writable = False
