"""The checkpoint that is measured: a folder that was given, or random weights.

Random weights say nothing about how it sounds, but take as long as real ones.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from app.bench.checkpoint import full_checkpoint, make_checkpoint, tiny_sizes
from app.core.errors import StartupError

VOICE = "conds.pt"
REPEAT = 5
"""The random voice has a prompt of two seconds, recordings usually have ten or more."""


@contextmanager
def checkpoint(model_path: str, tiny: bool) -> Iterator[Path]:
    """A folder as upstream loads it: `model_path`, unless that is empty.

    Random weights of full size (3.2 GB) are made once a machine. Raises `StartupError`.
    """
    if model_path:
        yield Path(model_path)
        return
    with tempfile.TemporaryDirectory(prefix="tts-bench-") as folder:
        try:
            if tiny:
                with tiny_sizes():
                    made = make_checkpoint(Path(folder) / "random")
            else:
                made = full_checkpoint()
            longer = _with_longer_voice(made, Path(folder) / "longer")
        except OSError as fault:
            raise StartupError(
                f"cannot make random weights in {tempfile.gettempdir()}: {fault.strerror}"
            ) from fault
        yield longer


def _with_longer_voice(made: Path, folder: Path) -> Path:
    """Links in `folder` to all that is `made`, but a voice of its own."""
    folder.mkdir()
    for path in made.iterdir():
        if path.is_file() and path.name != VOICE:
            (folder / path.name).symlink_to(path)
    voice = torch.load(made / VOICE, weights_only=True)
    s3gen = voice["gen"]
    s3gen["prompt_token"] = s3gen["prompt_token"].repeat(1, REPEAT)
    s3gen["prompt_token_len"] = s3gen["prompt_token_len"] * REPEAT
    s3gen["prompt_feat"] = s3gen["prompt_feat"].repeat(1, REPEAT, 1)
    torch.save(voice, folder / VOICE)
    return folder
