"""Manifests: which files a model consists of, and where they are published."""

from dataclasses import dataclass
from pathlib import Path

from app.core.errors import StartupError


@dataclass(frozen=True)
class Manifest:
    """A model's files in a repository of the Hugging Face hub, at a pinned commit."""

    repository: str
    revision: str
    voice_encoder: str
    t3: str
    s3gen: str
    tokenizer: str
    conditionals: str

    @property
    def files(self) -> tuple[str, ...]:
        return (self.voice_encoder, self.t3, self.s3gen, self.tokenizer, self.conditionals)


ENGLISH = Manifest(
    repository="ResembleAI/chatterbox",
    revision="1b475dffa71fb191cb6d5901215eb6f55635a9b6",
    voice_encoder="ve.safetensors",
    t3="t3_cfg.safetensors",
    s3gen="s3gen.safetensors",
    tokenizer="tokenizer.json",
    conditionals="conds.pt",
)

UNSUPPORTED_VARIANTS = {
    "t3_turbo_v1.safetensors": "Chatterbox Turbo",
    "s3gen_meanflow.safetensors": "Chatterbox Turbo",
    "t3_mtl23ls_v2.safetensors": "Chatterbox Multilingual",
    "grapheme_mtl_merged_expanded_v1.json": "Chatterbox Multilingual",
}
"""Unsupported variants by the names of files that only they have."""


def inventory(folder: Path) -> dict[str, int | None]:
    """The size in bytes of each file of the model; None where it is missing."""
    return {name: file_size(folder / name) for name in ENGLISH.files}


def missing(folder: Path) -> list[str]:
    """Names of the files that `folder` lacks; empty when the model can be loaded."""
    return [name for name, size in inventory(folder).items() if size is None]


def refuse_other_variants(folder: Path) -> None:
    """Raise `StartupError` if `folder` holds an unsupported variant and not the supported model."""
    if (folder / ENGLISH.t3).exists():
        return
    for name, variant in UNSUPPORTED_VARIANTS.items():
        if (folder / name).exists():
            raise wrong_variant(folder / name, variant)


def wrong_variant(path: Path, variant: str) -> StartupError:
    return StartupError(f"{path} is of {variant}; only the English Chatterbox is supported")


def file_size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None
