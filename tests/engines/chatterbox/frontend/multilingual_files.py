"""Small random stand-ins for the files that Chatterbox Multilingual reads its text with."""

import json
import random
from pathlib import Path
from unicodedata import category, normalize

import numpy as np
import srsly
from pykakasi import kakasi
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Whitespace

from app.engines.chatterbox.variants import MULTILINGUAL
from app.text.languages import LANGUAGES
from tests.engines.chatterbox.frontend.sentences import SENTENCES

KEYS = "abcdefghijklmnopqrstuvwxyz"


def write(folder: Path) -> Path:
    """Write a tokenizer, a table of Cangjie codes and a segmenter; returns the tokenizer's path."""
    chance = random.Random(1)
    _write_cangjie(folder / "Cangjie5_TC.json", chance)
    _write_segmenter(folder / "spacy_ontonotes", chance)
    path = folder / MULTILINGUAL.manifest.tokenizer
    _tokenizer().save(str(path))
    return path


def _characters() -> list[str]:
    """All that the sentences are read as, but Chinese ones, which have no tokens upstream."""
    texts = ["".join(SENTENCES[code]) for code in sorted(SENTENCES.keys() - {"ja", "zh"})]
    texts += [word["hira"] for text in SENTENCES["ja"] for word in kakasi().convert(text)]
    texts += [*SENTENCES["ja"], *SENTENCES["zh"]]
    plain = normalize("NFKD", " ".join(texts).lower())
    return sorted({char for char in plain if not char.isspace() and not _is_han(char)})


def _is_han(char: str) -> bool:
    return "\u4e00" <= char <= "\u9fff"


def _tokenizer() -> Tokenizer:
    prefixes = [f"[{code}]" for code in LANGUAGES]
    keys = [f"[cj_{key}]" for key in f"{KEYS}0123456789."]
    special = {"[STOP]": 0, "[UNK]": 1, "[SPACE]": 2, "[START]": 255}
    free = iter(sorted(set(range(MULTILINGUAL.t3.text_vocab_size)) - set(special.values())))
    vocabulary = special | {token: next(free) for token in (*prefixes, *keys, *_characters())}
    tokenizer = Tokenizer(BPE(vocabulary, [], unk_token="[UNK]", fuse_unk=False))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.add_special_tokens([*special, *prefixes, *keys])
    return tokenizer


def _write_cangjie(path: Path, chance: random.Random) -> None:
    """Codes of one or two keys, so that many characters share theirs; one has no code."""
    han = sorted({char for text in (*SENTENCES["zh"], *SENTENCES["ja"]) for char in text})
    codes = [f"{char}\t{''.join(chance.choices('abc', k=chance.randint(1, 2)))}\t1" for char in han]
    path.write_text(json.dumps([code for code in codes if category(code[0]) == "Lo"][1:]))


def _write_segmenter(folder: Path, chance: random.Random) -> None:
    """Random weights for each character before, at and after a place."""
    han = sorted({char for text in SENTENCES["zh"] for char in text})
    names = ["$$", *(f"{place}.{char}" for place in ("c", "c-1", "c1") for char in han)]
    tags = {"B": 0, "B_single": 1, "I": 2, "I_end": 3, "I_first": 4}
    features = {"unigram": [], "bigram": []} | {
        "feature_to_idx": {name: index for index, name in enumerate(names)},
        "tag_to_idx": tags,
    }
    folder.mkdir()
    srsly.write_msgpack(folder / "features.msgpack", features)
    weights = np.random.default_rng(1).normal(size=len(tags) * (len(names) + len(tags)))
    np.savez(folder / "weights.npz", sizes=np.array([len(tags), len(names)]), w=weights)
