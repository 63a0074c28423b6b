"""Manifests: which files a model consists of, and where they are published.

Lists what is in a folder and recognises unsupported variants; `download` fetches the files.
"""

from dataclasses import dataclass
from pathlib import Path

from app.core.errors import StartupError


@dataclass(frozen=True)
class Manifest:
    """A model's files in a repository of the Hugging Face hub, at a pinned commit."""

    repository: str
    revision: str
    files: tuple[str, ...]


ENGLISH = Manifest(
    repository="ResembleAI/chatterbox",
    revision="1b475dffa71fb191cb6d5901215eb6f55635a9b6",
    files=(
        *("ve.safetensors", "t3_cfg.safetensors", "s3gen.safetensors"),
        *("tokenizer.json", "conds.pt"),
    ),
)

IDENTIFYING_FILE = "t3_cfg.safetensors"
"""A folder with this file holds the supported model, even beside files of other variants."""

UNSUPPORTED_VARIANTS = {
    "t3_turbo_v1.safetensors": "Chatterbox Turbo",
    "s3gen_meanflow.safetensors": "Chatterbox Turbo",
    "t3_mtl23ls_v2.safetensors": "Chatterbox Multilingual",
    "grapheme_mtl_merged_expanded_v1.json": "Chatterbox Multilingual",
}
"""Unsupported variants by the names of files that only they have."""


@dataclass(frozen=True)
class ModelFile:
    """A file of a model; `size` in bytes, None where it is missing."""

    name: str
    size: int | None


def inventory(folder: Path, manifest: Manifest = ENGLISH) -> list[ModelFile]:
    """List all files of the model, present or not, in the manifest's order."""
    return [ModelFile(name, file_size(folder / name)) for name in manifest.files]


def missing(folder: Path, manifest: Manifest = ENGLISH) -> list[str]:
    """Names of the files that `folder` lacks; empty when the model can be loaded."""
    return [file.name for file in inventory(folder, manifest) if file.size is None]


def refuse_other_variants(folder: Path) -> None:
    """Raise `StartupError` if `folder` holds an unsupported variant and not the supported model."""
    if (folder / IDENTIFYING_FILE).exists():
        return
    for name, variant in UNSUPPORTED_VARIANTS.items():
        if (folder / name).exists():
            raise wrong_variant(folder / name, variant)


def wrong_variant(path: Path, variant: str) -> StartupError:
    return StartupError(f"{path} is of {variant}; only the English Chatterbox is supported")


def file_size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None
