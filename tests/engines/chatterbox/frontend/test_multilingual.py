"""Token ids equal those of the package's `MTLTokenizer` in 23 languages.

`CHATTERBOX_MULTILINGUAL_TOKENIZER` names the real tokenizer; Chinese needs the Cangjie table and
the segmenter beside it. Otherwise the files are small and made here. Upstream's class gets the same
files in place of those it would download.
"""

import os
from functools import partial
from pathlib import Path

import pytest
import spacy_pkuseg
import torch
from chatterbox.models.tokenizers import tokenizer as upstream_module
from chatterbox.mtl_tts import SUPPORTED_LANGUAGES, punc_norm

from app.core.errors import EmptyText
from app.engines.chatterbox.frontend import chinese, helpers, japanese, multilingual
from app.engines.chatterbox.frontend.helpers import load_preparations
from app.engines.chatterbox.frontend.multilingual import MultilingualFrontend, MultilingualTokenizer
from app.engines.chatterbox.variants import MULTILINGUAL
from app.text.languages import LANGUAGES
from tests.engines.chatterbox.frontend import multilingual_files
from tests.engines.chatterbox.frontend.sentences import SENTENCES

REAL = os.environ.get("CHATTERBOX_MULTILINGUAL_TOKENIZER", "")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    if REAL:
        return Path(REAL)
    return multilingual_files.write(tmp_path_factory.mktemp("multilingual"))


@pytest.fixture(scope="module")
def tokenizer(path):
    return MultilingualTokenizer(str(path))


@pytest.fixture(scope="module")
def frontend(tokenizer):
    return MultilingualFrontend(tokenizer)


@pytest.fixture(scope="module")
def upstream(path):
    segmenter = path.parent / "spacy_ontonotes"
    make = partial(spacy_pkuseg.pkuseg, str(segmenter)) if segmenter.exists() else lambda: None
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(
            upstream_module, "hf_hub_download", lambda filename, **_: str(path.parent / filename)
        )
        patches.setattr(spacy_pkuseg, "pkuseg", make)
        return upstream_module.MTLTokenizer(str(path))


def expected(upstream, text, language):
    return upstream.text_to_tokens(punc_norm(text), language_id=language).long()


def differing(frontend, upstream):
    """The languages in which the ids of any sentence differ."""
    return {
        code
        for code in LANGUAGES.keys() - frontend.missing_languages
        for text in SENTENCES[code]
        if not torch.equal(frontend.tokenize(text, code), expected(upstream, text, code))
    }


# --- The same ids ---------------------------------------------------------------------------------


def test_languages_are_upstreams():
    assert {code: language.name for code, language in LANGUAGES.items()} == SUPPORTED_LANGUAGES
    assert set(MULTILINGUAL.languages) == SENTENCES.keys() == LANGUAGES.keys()
    assert sum(map(len, SENTENCES.values())) >= 200


def test_tokens_equal_upstreams(frontend, upstream):
    assert differing(frontend, upstream) == set()
    assert REAL or not frontend.missing_languages


def test_sentences_consist_of_known_tokens(frontend):
    """So that equality says something; Chinese characters without a code are unknown upstream."""
    for code in LANGUAGES.keys() - frontend.missing_languages:
        ids = torch.cat([frontend.tokenize(text, code)[0] for text in SENTENCES[code]])
        assert (ids == 1).float().mean() < 0.02, code
        assert len(ids.unique()) > 15, code


def without(name):
    """`load_preparations` without the one of a language."""

    def load(folder):
        loaded, missing = load_preparations(folder)
        return {code: each for code, each in loaded.items() if code != name}, missing

    return load


MUTATIONS = {
    "language prefix dropped": (MultilingualTokenizer, "prefix", lambda self, language: []),
    "not decomposed": (multilingual, "normalize", lambda form, text: text),
    "English punctuation": (
        multilingual,
        "punc_norm",
        lambda text: punc_norm(text.rstrip("。")) + ".",
    ),
    "kanji kept": (multilingual, "load_preparations", without("ja")),
    "no space before は": (japanese, "_spaced", lambda hiragana: hiragana),
    "no Cangjie codes": (multilingual, "load_preparations", without("zh")),
}
DETECTED_IN = {"kanji kept": {"ja"}, "no space before は": {"ja"}, "no Cangjie codes": {"zh"}}


@pytest.mark.skipif(bool(REAL), reason="as many helpers as the made files have")
@pytest.mark.parametrize("mutation", MUTATIONS)
def test_comparing_tokens_detects_mutation(path, upstream, monkeypatch, mutation):
    monkeypatch.setattr(*MUTATIONS[mutation])
    mutated = MultilingualFrontend(MultilingualTokenizer(str(path)))
    found = differing(mutated, upstream)
    assert found
    assert found == DETECTED_IN.get(mutation, found)


def test_characters_that_share_a_cangjie_code_have_its_index():
    tokens = chinese.cangjie_tokens(["日\ta", "曰\ta", "明\tab\t9", "x\tb"])
    assert tokens == {
        "日": "[cj_a][cj_.]",
        "曰": "[cj_a][cj_1][cj_.]",
        "明": "[cj_a][cj_b][cj_.]",
    }


# --- What upstream does not refuse ----------------------------------------------------------------


@pytest.mark.parametrize("text", ["[START]", "[en]", "［en］", "[ＥＮ]", "[cj_a]", "﹇de﹈"])
def test_control_tokens_in_a_text_are_words(tokenizer, frontend, text):
    tokens = set(frontend.tokenize(f"ja {text} ja", "de")[0, 1:].tolist())
    vocabulary = tokenizer.tokenizer.get_vocab()
    assert not tokens & {vocabulary[f"[{name}]"] for name in ("START", "en", "de", "cj_a")}


@pytest.mark.parametrize("language", ["de", "ja", "ko"])
@pytest.mark.parametrize("text", ["", " ", "\n\t "])
def test_rejects_text_without_content(frontend, text, language):
    with pytest.raises(EmptyText):
        frontend.tokenize(text, language)


# --- Missing helpers ------------------------------------------------------------------------------


def test_missing_packages_and_files_leave_out_their_language_alone(tmp_path, monkeypatch, caplog):
    found = helpers.find_spec
    monkeypatch.setattr(helpers, "find_spec", lambda name: name != "pykakasi" and found(name))
    loaded, missing = load_preparations(tmp_path)
    assert loaded.keys() == {"ko"}
    assert missing["ja"] == "the package pykakasi is missing, which the extra 'languages' installs"
    assert "Cangjie5_TC.json, spacy_ontonotes/features.msgpack" in missing["zh"]
    assert f"models download {tmp_path.name}" in missing["zh"]
    assert "Japanese is not offered" in caplog.text


@pytest.mark.parametrize("name", LANGUAGES["zh"].files)
def test_damaged_file_leaves_out_its_language_alone(tmp_path, name):
    multilingual_files.write(tmp_path)
    (tmp_path / name).write_bytes(b"\xff damaged")
    loaded, missing = load_preparations(tmp_path)
    assert loaded.keys() == {"ja", "ko"}
    assert missing["zh"].startswith("its text preparation cannot be loaded: ")


def test_nothing_is_downloaded(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a download")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    tokenizer = MultilingualTokenizer(str(multilingual_files.write(tmp_path)))
    assert not tokenizer.missing
    assert tokenizer.encode("你好", "zh")
