"""T3 of Chatterbox Multilingual equals the package's, from the text of a language on.

The reference is the package's T3 in its multilingual configuration, without the alignment analyzer
that later versions have dropped: `T3Config.is_multilingual` decides on that alone. Its repetition
penalty is 1.2, as it is there by default.
"""

import msgspec
import pytest
import torch
from chatterbox.models.t3.modules.t3_config import T3Config
from chatterbox.mtl_tts import punc_norm

from app.engines.chatterbox.frontend.multilingual import MultilingualFrontend, MultilingualTokenizer
from app.engines.chatterbox.t3.request import T3Request
from app.engines.chatterbox.variants import MULTILINGUAL
from tests.engines.chatterbox.t3.reference import (
    DEFAULTS,
    generate,
    logit_error,
    new_batch,
    upstream_tokens,
)

TEXTS = {"de": "Die Straße ist heute gesperrt!", "ko": "날씨가 아주 좋아요.", "ja": "母は東京へ"}


@pytest.fixture(scope="module")
def t3(models_of):
    return models_of("multilingual").t3


@pytest.fixture(scope="module")
def upstream_t3(upstream_of):
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(T3Config, "is_multilingual", False)
        yield upstream_of("multilingual").t3


@pytest.fixture(scope="module")
def requests(models_of, upstream_of):
    """`requests(language, **params)`: the same request, with our text tokens and with theirs."""

    models, upstream = models_of("multilingual"), upstream_of("multilingual")
    frontend = MultilingualFrontend(models.tokenizer)

    def requests(language, **params):
        text = TEXTS[language]
        theirs = upstream.tokenizer.text_to_tokens(punc_norm(text), language_id=language).long()
        params = msgspec.structs.replace(DEFAULTS, **params)
        return tuple(
            T3Request(tokens, models.default_voice, params, seed=7, max_tokens=200)
            for tokens in (frontend.tokenize(text, language), theirs)
        )

    return requests


def own_tokens(t3, request):
    return generate(new_batch(t3, slots=1, spec=MULTILINGUAL.t3), request)


@pytest.mark.parametrize("language", TEXTS)
def test_logits_equal_upstreams(t3, upstream_t3, requests, language):
    own, theirs = requests(language)
    assert torch.equal(own.text_tokens, theirs.text_tokens)
    assert logit_error(t3, upstream_t3, own, MULTILINGUAL.t3) < 1e-5


@pytest.mark.parametrize(
    ("language", "params"),
    [
        ("de", {}),
        ("ja", {"cfg_guidance_weight": 0.0, "synthesis_temperature": 1.5, "min_p": 0.0}),
        ("ko", {"repetition_penalty": 2.0, "top_p": 0.9, "voice_exaggeration_factor": 1.0}),
    ],
)
def test_tokens_equal_upstreams_with_the_same_random_numbers(
    t3, upstream_t3, requests, language, params
):
    own, theirs = requests(language, **params)
    tokens = own_tokens(t3, own)
    assert tokens == upstream_tokens(upstream_t3, theirs)
    assert 25 < len(tokens) < own.max_tokens  # it ended with the stop token


def test_tokens_that_are_no_speech_do_not_leave_t3(t3, upstream_t3, requests):
    own, theirs = requests("de", synthesis_temperature=5.0, min_p=0.0)
    tokens = own_tokens(t3, own)
    assert None in tokens[:-1]
    assert all(token is None or token < 6561 for token in tokens)
    assert tokens == upstream_tokens(upstream_t3, theirs)


# --- Mutations ------------------------------------------------------------------------------------


def test_comparing_tokens_detects_a_missing_language_prefix(t3, upstream_t3, requests, monkeypatch):
    monkeypatch.setattr(MultilingualTokenizer, "prefix", lambda self, language: [])
    own, theirs = requests("de")
    assert own_tokens(t3, own) != upstream_tokens(upstream_t3, theirs)


def test_comparing_tokens_detects_another_language(t3, upstream_t3, requests):
    own, theirs = requests("de")[0], requests("ko")[1]
    assert own_tokens(t3, own) != upstream_tokens(upstream_t3, theirs)


def test_comparing_tokens_detects_the_penalty_of_older_versions(t3, upstream_t3, requests):
    own, theirs = requests("de")[0], requests("de", repetition_penalty=2.0)[1]
    assert own_tokens(t3, own) != upstream_tokens(upstream_t3, theirs)
