"""Manifests: which files a model consists of, where they are published, and their checksums."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from app.core.errors import StartupError


class Checksum(NamedTuple):
    """A file's size in bytes and its SHA-256."""

    size: int
    sha256: str


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
    checksums: dict[str, Checksum]

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
    checksums={
        "ve.safetensors": Checksum(
            5_695_784, "f0921cab452fa278bc25cd23ffd59d36f816d7dc5181dd1bef9751a7fb61f63c"
        ),
        "t3_cfg.safetensors": Checksum(
            2_129_653_744, "914cb1696f47527fe8852ca8f1fe1fa63cb34f76f9c715e84e067b744dd0da81"
        ),
        "s3gen.safetensors": Checksum(
            1_056_484_620, "2b78103c654207393955e4900aac14a12de8ef25f4b09424f1ef91941f161d4e"
        ),
        "tokenizer.json": Checksum(
            25_470, "d71e3a44eabb1784df9a68e9f95b251ecbf1a7af6a9f50835856b2ca9d8c14a5"
        ),
        "conds.pt": Checksum(
            107_374, "6552d70568833628ba019c6b03459e77fe71ca197d5c560cef9411bee9d87f4e"
        ),
    },
)

MULTILINGUAL = Manifest(
    repository="ResembleAI/chatterbox",
    revision="",
    voice_encoder="ve.pt",
    t3="t3_mtl23ls_v3.safetensors",
    s3gen="s3gen.pt",
    tokenizer="grapheme_mtl_merged_expanded_v1.json",
    conditionals="conds.pt",
    checksums={},
)
TURBO = Manifest(
    repository="ResembleAI/chatterbox-turbo",
    revision="",
    voice_encoder="ve.safetensors",
    t3="t3_turbo_v1.safetensors",
    s3gen="s3gen_meanflow.safetensors",
    tokenizer="vocab.json",
    conditionals="conds.pt",
    checksums={},
)
NANO = replace(TURBO, repository="ResembleAI/chatterbox-nano", t3="t3_nano_v1.safetensors")

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
