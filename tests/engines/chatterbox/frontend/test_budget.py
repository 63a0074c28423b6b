"""The runaway guard: four times the usual number of speech tokens, and a second."""

import pytest

from app.engines.chatterbox.frontend.budget import max_tokens
from app.engines.chatterbox.variants import ENGLISH, MULTILINGUAL, TURBO


@pytest.mark.parametrize(
    ("length", "tokens"), [(1, 32), (10, 101), (100, 785), (128, 997), (129, 1000), (500, 1000)]
)
def test_max_tokens_is_four_times_the_usual_number(length, tokens):
    assert max_tokens(ENGLISH, "x" * length, "en") == tokens
    assert max_tokens(TURBO, "x" * length, "en") == (tokens if tokens < 1000 else 1001)


@pytest.mark.parametrize(
    ("language", "length", "tokens"),
    [("en", 100, 785), ("de", 100, 745), ("zh", 20, 465), ("zh", 44, 993), ("zh", 45, 1000)],
)
def test_max_tokens_follow_the_language(language, length, tokens):
    assert max_tokens(MULTILINGUAL, "x" * length, language) == tokens
