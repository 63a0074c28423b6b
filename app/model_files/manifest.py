"""Manifests: which files a model consists of, where they are published, and their checksums."""

import hashlib
from collections import defaultdict
from collections.abc import Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from app.core.errors import StartupError


class Checksum(NamedTuple):
    """A file's size in bytes and its SHA-256."""

    size: int
    sha256: str

    def fits(self, path: Path) -> bool:
        """Read the whole file if it has this size."""
        if file_size(path) != self.size:
            return False
        with path.open("rb") as source:
            return hashlib.file_digest(source, "sha256").hexdigest() == self.sha256


class Archive(NamedTuple):
    """A zip file from elsewhere, whose members are `files` of a manifest, by their base names."""

    name: str
    url: str
    checksum: Checksum
    files: tuple[str, ...]


@dataclass(frozen=True)
class Manifest:
    """The files of a model in a repository of the Hugging Face hub, at a pinned commit.

    `name`: that of the model's folder in MODEL_PATH. `extra`: further files that are read, those
    beside the tokenizer; some come in `archives`. `borrowed`: the models whose repositories have
    the other files, by file name. A file that is not in `checksums` is none of a repository's, as a
    T3 of one's own. `other_t3`: names of T3 in other versions. `packs`: T3 files that speak a
    single language, and its code.
    """

    name: str
    title: str
    repository: str
    revision: str
    voice_encoder: str
    t3: str
    s3gen: str
    tokenizer: str
    conditionals: str
    checksums: dict[str, Checksum]
    extra: tuple[str, ...] = ()
    archives: tuple[Archive, ...] = ()
    borrowed: dict[str, "Manifest"] = field(default_factory=dict)
    other_t3: tuple[str, ...] = ()
    packs: dict[str, str] = field(default_factory=dict)

    @property
    def files(self) -> tuple[str, ...]:
        named = (self.voice_encoder, self.t3, self.s3gen, self.tokenizer, self.conditionals)
        return named + self.extra

    def without(self, names: Set[str]) -> "Manifest":
        """Without those of its `extra` files."""
        return replace(
            self,
            extra=tuple(name for name in self.extra if name not in names),
            archives=tuple(each for each in self.archives if not names & set(each.files)),
        )

    def with_s3gen_of(self, other: "Manifest") -> "Manifest":
        """With the S3Gen of another model in the place of its own."""
        return replace(
            self,
            s3gen=other.s3gen,
            checksums=self.checksums | {other.s3gen: other.checksums[other.s3gen]},
            borrowed={other.s3gen: other},
        )


ENGLISH = Manifest(
    name="chatterbox",
    title="Chatterbox",
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

CHINESE_SEGMENTER = Archive(
    name="spacy_ontonotes.zip",
    url="https://github.com/explosion/spacy-pkuseg/releases/download/v0.0.26/spacy_ontonotes.zip",
    checksum=Checksum(
        34_567_143, "b216e7f92de7ae285aeab8feba2faa8ea8216e5995ff6fb3d391cc8356db1bfe"
    ),
    files=("spacy_ontonotes/features.msgpack", "spacy_ontonotes/weights.npz"),
)
"""The model of spacy-pkuseg, which that would fetch while it speaks."""

MULTILINGUAL = Manifest(
    name="multilingual",
    title="Chatterbox Multilingual",
    repository="ResembleAI/chatterbox",
    revision="5bb1f6ee58e50c3b8d408bc82a6d3740c2db6e18",
    voice_encoder="ve.pt",
    t3="t3_mtl23ls_v3.safetensors",
    s3gen="s3gen.pt",
    tokenizer="grapheme_mtl_merged_expanded_v1.json",
    conditionals="conds.pt",
    checksums={
        "ve.pt": Checksum(
            5_698_626, "4b16d836bc598509860f6fa068165a8bb5e9ac84f05582dfcf278a5a372879f1"
        ),
        "t3_mtl23ls_v2.safetensors": Checksum(
            2_143_989_752, "b1237586127ce98e7800a68e49938eb5092846862aabcb6e17b2fda7889a6c75"
        ),
        "t3_mtl23ls_v3.safetensors": Checksum(
            2_143_989_928, "5abca8321ede76f8e61f1cc0d19aea6c946b28871017ce8726f8a69203f05953"
        ),
        "s3gen.pt": Checksum(
            1_057_165_844, "9b9ff07e60b20c136e2b1b3d7563a24604e8d2c4c267888d1ee929dd0151d2a3"
        ),
        "s3gen_v3.pt": Checksum(
            1_056_903_694, "f7abce4b196dae2d08d9296cbebc6521b046079577643b42a19a03499d08721e"
        ),
        "grapheme_mtl_merged_expanded_v1.json": Checksum(
            69_989, "69632f47220a788a52ce2661d096453c5655e9bf25289d89a8d832c46ee07dbf"
        ),
        "conds.pt": ENGLISH.checksums["conds.pt"],
        "Cangjie5_TC.json": Checksum(
            1_920_163, "7073fd9de919443ae88e0bd2449917a65fe54898a4413ed1edcc4b67f28bce8c"
        ),
        "spacy_ontonotes/features.msgpack": Checksum(
            22_685_181, "fd4322482a7018b9bce9216173ae9d2848efe6d310b468bbb4383fb55c874a18"
        ),
        "spacy_ontonotes/weights.npz": Checksum(
            37_508_754, "5ada075eb25a854f71d6e6fa4e7d55e7be0ae049255b1f8f19d05c13b1b68c9e"
        ),
    },
    extra=("Cangjie5_TC.json", *CHINESE_SEGMENTER.files),
    archives=(CHINESE_SEGMENTER,),
    other_t3=("t3_23lang.safetensors", "t3_mtl23ls_v2.safetensors"),
    packs={
        "t3_es_es.safetensors": "es",
        "t3_es_mx_latam.safetensors": "es",
        "t3_hi.safetensors": "hi",
        "t3_pt_br.safetensors": "pt",
        "t3_pt_pt.safetensors": "pt",
        "t3_zh_cmn.safetensors": "zh",
    },
)
"""With T3 and S3Gen of versions 2 and 3, of which it names those that its loader upstream takes.

The packs are in repositories of their own, `ResembleAI/Chatterbox-Multilingual-…`.
"""

TURBO = Manifest(
    name="turbo",
    title="Chatterbox Turbo",
    repository="ResembleAI/chatterbox-turbo",
    revision="749d1c1a46eb10492095d68fbcf55691ccf137cd",
    voice_encoder="ve.safetensors",
    t3="t3_turbo_v1.safetensors",
    s3gen="s3gen_meanflow.safetensors",
    tokenizer="vocab.json",
    conditionals="conds.pt",
    checksums={
        "ve.safetensors": ENGLISH.checksums["ve.safetensors"],
        "t3_turbo_v1.safetensors": Checksum(
            1_915_480_052, "fcf1f8c1d651bb7e3acd69ee5be269b4ac10c02980b7708213d598bc9f7cdf87"
        ),
        "s3gen_meanflow.safetensors": Checksum(
            1_064_875_036, "d65cb687a2ed581ee6cc297e919ffefa63386944f42364ae13b78a594945514f"
        ),
        "vocab.json": Checksum(
            999_186, "f6bd25a65e4e63ca31360e9fb11c7e4f9a391a78385d640acd814092dd6eee4f"
        ),
        "conds.pt": Checksum(
            169_454, "b1852099306fd6a7814eb9d0bd10186caba7249596cc23868f78a0eefbfa5033"
        ),
        "merges.txt": Checksum(
            456_318, "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
        ),
        "added_tokens.json": Checksum(
            418, "72e4ab6acb0d9309ac3df4b526ae5fd80a2da5bc5ab7bb02d85096a374f69193"
        ),
        "special_tokens_map.json": Checksum(
            470, "92ba8063bf40aa163eadebbfe0de07c2aebe44cf0d4a9e8726580b0781fd2640"
        ),
        "tokenizer_config.json": Checksum(
            3_878, "bca16a2ac1ddbd78b8d6228f0031884cc74b6ea54b967d6f6d2ebae9ccde23e6"
        ),
    },
    extra=("merges.txt", "added_tokens.json", "special_tokens_map.json", "tokenizer_config.json"),
)

NANO = replace(
    TURBO,
    name="nano",
    title="Chatterbox Nano",
    repository="ResembleAI/chatterbox-nano",
    revision="71ccd1d0081b430592cea481f4307e764e07bc64",
    t3="t3_nano_v1.safetensors",
    checksums=TURBO.checksums
    | {
        "t3_nano_v1.safetensors": Checksum(
            869_899_204, "72b110185087d945dbdf54dee4e333848e1811bdd5fd6cb16ceb8da50006f0c9"
        )
    },
)
"""All files but T3 are Turbo's."""

MANIFESTS = {each.name: each for each in (ENGLISH, TURBO, NANO, MULTILINGUAL)}
"""By `Manifest.name`."""

COMMON_NAMES = frozenset({"s3gen.safetensors", "s3gen.pt", "tokenizer.json", "vocab.json"})
"""Files of these names are in the repositories of several models, even if only one reads them."""


def _titles_of_files() -> dict[str, str]:
    titles = defaultdict[str, list[str]](list)
    for each in MANIFESTS.values():
        for name in (each.t3, *each.other_t3, *each.packs, each.s3gen, each.tokenizer):
            titles[name].append(each.title)
    return {name: " or ".join(found) for name, found in titles.items() if name not in COMMON_NAMES}


TITLE_OF_FILE = _titles_of_files()
"""By file name, the title of the model that has such a file; without names that many models use."""


def folder_of(model_path: Path, name: str) -> Path:
    """The folder of a model's files: the original's may be MODEL_PATH itself."""
    folder = model_path / name
    return model_path if name == "chatterbox" and not folder.is_dir() else folder


def inventory(folder: Path, manifest: Manifest = ENGLISH) -> dict[str, int | None]:
    """The size in bytes of each file of the model; None where it is missing."""
    return {name: file_size(folder / name) for name in manifest.files}


def missing(folder: Path, manifest: Manifest = ENGLISH) -> list[str]:
    """Names of the files that `folder` lacks; empty when the model can be loaded."""
    return [name for name, size in inventory(folder, manifest).items() if size is None]


def damaged(folder: Path, manifest: Manifest = ENGLISH, *, thorough: bool = False) -> list[str]:
    """Names of the files in `folder` that are not the published ones, as far as these are known.

    By their size; with `thorough`, by their checksum, which takes seconds for each gigabyte.
    """
    present = {name: size for name, size in inventory(folder, manifest).items() if size is not None}
    return [
        name
        for name, size in present.items()
        if (published := manifest.checksums.get(name))
        and not (published.fits(folder / name) if thorough else published.size == size)
    ]


def refuse_other_variants(folder: Path, manifest: Manifest = ENGLISH) -> None:
    """Raise `StartupError` if `folder` holds another model's files, and not this one's T3."""
    if (folder / manifest.t3).exists():
        return
    for name, title in TITLE_OF_FILE.items():
        other = name not in manifest.files and title != manifest.title
        if other and (folder / name).exists():
            raise wrong_variant(folder / name, title, manifest.title)


def refuse_files_of(manifest: Manifest, folder: Path) -> None:
    """Raise `StartupError` if the model's T3 is in `folder`, which is not the model's own."""
    if (folder / manifest.t3).exists():
        raise wrong_variant(folder / manifest.t3, manifest.title)


def wrong_variant(path: Path, variant: str, expected: str = ENGLISH.title) -> StartupError:
    """The error for a file of the model `variant` in the place of one of `expected`."""
    return StartupError(
        f"{path} is of {variant}, not of {expected}: each model has a folder of its own in "
        f"MODEL_PATH, {', '.join(f'{name}/' for name in MANIFESTS)}"
    )


def file_size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None
