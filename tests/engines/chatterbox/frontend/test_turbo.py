"""Turbo's text tokens equal upstream's; its tags reach it, and nothing else in brackets does."""

import json

import pytest
from chatterbox.tts_turbo import punc_norm
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoTokenizer

from app.core.errors import EmptyText
from app.engines.chatterbox.frontend.plain_text import PLAIN_TEXTS
from app.engines.chatterbox.frontend.turbo import TurboFrontend
from app.engines.chatterbox.frontend.turbo_tokenizer import TurboTokenizer
from app.engines.chatterbox.variants import ENGLISH, NANO, TURBO
from app.text.chunking import split
from app.text.cleaning import clean

TAGS = [f"[{tag}]" for tag in TURBO.tags]
MERGED = ("the", "train", "Ġto", "Ġlaugh", "ing", "ĠâĢľ")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A GPT-2 tokenizer's files, with few merges."""
    folder = tmp_path_factory.mktemp("tokenizer")
    merges = dict.fromkeys(
        (word[:end], word[end]) for word in MERGED for end in range(1, len(word))
    )
    tokens = [*sorted(ByteLevel.alphabet()), *map("".join, merges), "<|endoftext|>"]
    special = {f"{kind}_token": "<|endoftext|>" for kind in ("bos", "eos", "unk")}
    config = {"tokenizer_class": "GPT2Tokenizer", "model_max_length": 1024, **special}
    for name, content in (
        ("vocab", {token: number for number, token in enumerate(tokens)}),
        ("added_tokens", {tag: len(tokens) + number for number, tag in enumerate(TAGS)}),
        ("special_tokens_map", special),
        ("tokenizer_config", config),
    ):
        (folder / f"{name}.json").write_text(json.dumps(content))
    lines = ["#version: 0.2", *map(" ".join, merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder):
    return TurboTokenizer(str(folder / TURBO.manifest.tokenizer))


@pytest.fixture(scope="module")
def frontend(tokenizer):
    return TurboFrontend(tokenizer)


TEXTS = [
    "The train to the city was late; we walked home...",
    "the training: laughing - “to the train” — or…",
    "Oh [laugh] well [clear throat], [sigh][gasp] no[cough]!",
    " Two  spaces\tand\nlines ",
    "[laugh]",
    "Ünïcödé 你好 😀 don't 1,234.5",
    *TAGS,
]


@pytest.mark.filterwarnings("ignore:Deprecated in 0.9.0")
def test_tokens_equal_upstreams(folder, frontend):
    upstream = AutoTokenizer.from_pretrained(folder)
    assert len(upstream) == len(frontend._tokenizer.tokenizer.get_vocab())
    for text in TEXTS:
        expected = upstream(punc_norm(text), return_tensors="pt", truncation=True).input_ids
        assert frontend.tokenize(text).tolist() == expected.tolist(), text


@pytest.mark.parametrize("tag", TAGS)
def test_tag_is_one_token(tokenizer, frontend, tag):
    number = tokenizer.tokenizer.token_to_id(tag)
    assert number in frontend.tokenize(f"Well {tag} yes.")
    assert number in frontend.tokenize(f"Well {tag.title()} yes.")


@pytest.mark.parametrize("text", ["[music]", "[START]", "<|endoftext|>", "[laugh", "[ laugh ]"])
def test_other_words_are_no_control_tokens(tokenizer, frontend, text):
    added = {tokenizer.tokenizer.token_to_id(token) for token in [*TAGS, "<|endoftext|>"]}
    assert not added & set(frontend.tokenize(f"Say {text} now.")[0].tolist())


@pytest.mark.parametrize("text", ["", " ", "\n\t "])
def test_rejects_text_without_content(frontend, text):
    with pytest.raises(EmptyText):
        frontend.tokenize(text)


def test_rejects_tags_at_other_numbers(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "added_tokens.json").write_text('{"[laugh]": 50275}')
    with pytest.raises(ValueError, match=r"\[laugh\] is not token 50275"):
        TurboTokenizer(str(tmp_path / "vocab.json"))


# --- The text before it is split ------------------------------------------------------------------


PLAIN = [
    ("Oh [laugh] well... [CLEAR THROAT] no", "Oh [laugh] well... [clear throat] no"),
    ("wait - what… ok; “fine” — ‘no’", "wait - what, ok; \"fine\" - 'no'"),
    ("[[laugh]] [music] [START] 【sigh】", "([laugh]) (music) (START) ((sigh))"),
    ("［ＬＡＵＧＨ］ [la\u200bugh] &#91;laugh&#93;", "[laugh] [laugh] [laugh]"),
    ("**[laugh]** x² 😀 Łódź", "[laugh] x squared Lódz"),
    ("[laugh](https://example.com) a", "laugh a"),
]


@pytest.mark.parametrize(("text", "expected"), PLAIN)
def test_only_tags_keep_their_brackets(text, expected):
    plain = PLAIN_TEXTS[TURBO.frontend.kind](clean(text, markup=True), "en").text
    assert plain == expected
    assert PLAIN_TEXTS[NANO.frontend.kind](plain, "en").text == plain


@pytest.mark.parametrize("tag", TAGS)
def test_tags_are_words_to_other_models(tag):
    plain = PLAIN_TEXTS[ENGLISH.frontend.kind](clean(f"Well {tag} yes.", markup=True), "en").text
    assert plain == f"Well ({tag[1:-1]}) yes."


def test_tag_is_not_split():
    for before in range(1, 30):
        text = f"{'ab ' * 10:.{before}} [clear throat] {'cd ' * 10}"
        for size in range(20, 40):
            assert any("[clear throat]" in chunk.text for chunk in split(text, size))
