"""`Models`: a loaded checkpoint, as the loader returns it."""

from dataclasses import dataclass
from typing import Any

import torch
from chatterbox.models.s3gen import S3Gen
from chatterbox.models.t3 import T3
from chatterbox.models.voice_encoder import VoiceEncoder

from app.engines.chatterbox.checkpoint.mapped_file import MappedFile
from app.engines.chatterbox.conditioning.conditionals import Conditionals
from app.engines.chatterbox.variants import ModelSpec


@dataclass(frozen=True)
class Models:
    """Upstream's modules in evaluation mode on `device`.

    `tokenizer`: what the frontend of the `spec` takes. `digest`: hex, changes whenever a file is
    replaced. `mapped_files`: for the CPU.
    """

    spec: ModelSpec
    t3: T3
    s3gen: S3Gen
    voice_encoder: VoiceEncoder
    tokenizer: Any
    default_voice: Conditionals
    device: torch.device
    digest: str
    mapped_files: tuple[MappedFile, ...]
