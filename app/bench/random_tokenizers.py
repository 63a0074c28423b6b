"""Small tokenizers in the files and of the size of the real ones; called by `bench.checkpoint`."""

import json
import string
import unicodedata
from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Whitespace

from app.engines.chatterbox.checkpoint.t3_config import t3_config
from app.engines.chatterbox.variants import ModelSpec

END_OF_TEXT = "<|endoftext|>"

CANGJIE_FILE = "Cangjie5_TC.json"

CHINESE = range(0x4E00, 0xA000)

SCRIPTS = (
    *(range(0x20, 0x7F), range(0xA1, 0x180), range(0x300, 0x370)),  # Latin and accents
    *(range(0x370, 0x400), range(0x400, 0x460), range(0x590, 0x600)),  # Greek, Cyrillic, Hebrew
    *(range(0x600, 0x700), range(0x900, 0x980), range(0x1100, 0x1200)),  # Arabic, Hindi, Korean
    *(range(0x3000, 0x3100), range(0xFF01, 0xFF20)),  # Japanese, and East Asian punctuation
)


def write_english(folder: Path, spec: ModelSpec) -> None:
    """A token for each character of English."""
    characters = string.punctuation + string.ascii_letters + string.digits
    tokenizer = _tokenizer(spec, characters, ())
    tokenizer.save(str(folder / spec.manifest.tokenizer))


def write_multilingual(folder: Path, spec: ModelSpec) -> None:
    """A token for each language, each letter of a Cangjie code and most other characters."""
    cangjie = [f"[cj_{key}]" for key in string.ascii_lowercase + string.digits + "."]
    languages = [f"[{code}]" for code in spec.languages]
    characters = [chr(code) for script in SCRIPTS for code in script]
    characters = [char for char in characters if unicodedata.category(char)[0] not in "CZ"]
    _write_json(folder / CANGJIE_FILE, [f"{chr(code)}\t{_cangjie(code)}" for code in CHINESE])
    tokenizer = _tokenizer(spec, characters, languages + cangjie)
    tokenizer.save(str(folder / spec.manifest.tokenizer))


def write_turbo(folder: Path, spec: ModelSpec) -> None:
    """A byte-level vocabulary with few merges, in the five files of a GPT-2 tokenizer."""
    merges = [*product(string.ascii_lowercase, repeat=2), *product("Ġ", string.ascii_letters)]
    tokens = sorted(ByteLevel.alphabet()) + ["".join(pair) for pair in merges]
    size = spec.t3.text_vocab_size - len(spec.tags) - 1
    tokens += [f"<unused{i}>" for i in range(size - len(tokens))] + [END_OF_TEXT]
    tags = {f"[{tag}]": len(tokens) + i for i, tag in enumerate(spec.tags)}
    special = {f"{kind}_token": END_OF_TEXT for kind in ("bos", "eos", "unk")}
    added = {END_OF_TEXT: size} | tags
    details = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    config: dict[str, Any] = {
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(i): {"content": text, "special": text == END_OF_TEXT} | details
            for text, i in added.items()
        },
        "model_max_length": 1024,
        "tokenizer_class": "GPT2Tokenizer",
    }
    _write_json(folder / "added_tokens.json", tags)
    _write_json(folder / "special_tokens_map.json", special)
    _write_json(folder / "tokenizer_config.json", config | special)
    lines = ["#version: 0.2", *map(" ".join, merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    _write_json(folder / spec.manifest.tokenizer, {text: i for i, text in enumerate(tokens)})


WRITERS = {"english": write_english, "multilingual": write_multilingual, "turbo": write_turbo}
"""Write a tokenizer's files, the one in the manifest last; by `FrontendSpec.kind`."""


def _tokenizer(spec: ModelSpec, characters: Iterable[str], words: Iterable[str]) -> Tokenizer:
    """A token for each of `characters` and `words`, and T3's start and stop tokens."""
    config = t3_config(spec.t3)
    special = {
        "[STOP]": config.stop_text_token,
        "[UNK]": 1,
        "[SPACE]": 2,
        "[START]": config.start_text_token,
    }
    taken = set(special.values())
    free = (i for i in range(3, config.text_tokens_dict_size) if i not in taken)
    vocabulary = special | dict(zip([*characters, *words], free, strict=False))
    vocabulary |= {f"[PLACEHOLDER{i}]": i for i in free}
    tokenizer = Tokenizer(BPE(vocabulary, [], unk_token="[UNK]", fuse_unk=False))  # noqa: S106
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.add_special_tokens([*special, *words])
    return tokenizer


def _cangjie(code: int) -> str:
    """Two to three letters, the same for every third character, as some real codes are."""
    code, letters = (code - CHINESE.start) // 3, ""
    while code or len(letters) < 2:
        code, letter = divmod(code, 26)
        letters += string.ascii_lowercase[letter]
    return letters


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
