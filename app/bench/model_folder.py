"""Write a model of random weights that a worker loads, to measure a service without real ones.

Called by `chatterbox-tts bench checkpoint` and by `tests.gpu_check`.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import torch

from app.bench.checkpoint import PROMPT_REPEATS, make_checkpoint
from app.bench.random_weights import conditionals
from app.core.errors import StartupError
from app.engines.chatterbox.variants import VARIANTS

TOKENS_PER_CHUNK = 100
"""Speech tokens after which a text chunk ends, about: four seconds, as a sentence of 12 words."""


def write_model(model_path: Path, variant: str, size: Literal["tiny", "full"] = "full") -> Path:
    """Write the model's files to its folder in `model_path`, which is returned.

    Its default voice has a prompt of ten seconds. Only `bench.checkpoint.tiny_sizes` loads a tiny
    model. Raises `StartupError` if the folder has files, or cannot be written.
    """
    folder, spec = model_path / variant, VARIANTS[variant]
    try:
        model_path.mkdir(parents=True, exist_ok=True)
        if folder.exists() and any(folder.iterdir()):
            raise StartupError(f"{folder} has files already: give another folder")
        with TemporaryDirectory(dir=model_path, prefix=f".{variant}-") as name:
            made = make_checkpoint(
                Path(name) / variant, size, end_at=TOKENS_PER_CHUNK, variant=variant
            )
            torch.save(conditionals(spec, 0, PROMPT_REPEATS), made / spec.manifest.conditionals)
            made.rename(folder)
    except OSError as fault:
        raise StartupError(f"cannot write {folder}: {fault.strerror}") from fault
    return folder
