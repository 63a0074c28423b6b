import pytest
import torch
from chatterbox.tts import punc_norm

from app.core.errors import EmptyText
from app.engines.chatterbox.frontend.english import EnglishFrontend


@pytest.fixture
def frontend(models):
    return EnglishFrontend(models.tokenizer)


@pytest.mark.parametrize(
    "text",
    [
        "The train to the city was late; we walked home...",
        "hello: world",
        "Já — “yes”",
        "你好",
    ],
)
def test_tokens_equal_upstreams(models, frontend, text):
    expected = models.tokenizer.text_to_tokens(punc_norm(text))
    assert torch.equal(frontend.tokenize(text), expected.long())


@pytest.mark.parametrize("name", ["START", "STOP", "UNK", "SPACE"])
def test_control_tokens_in_a_text_are_words(models, frontend, name):
    [token] = models.tokenizer.encode(f"[{name}]")
    assert token not in frontend.tokenize(f"Say[{name}]now.")


@pytest.mark.parametrize("text", ["", " ", "\n\t "])
def test_rejects_text_without_content(frontend, text):
    with pytest.raises(EmptyText):
        frontend.tokenize(text)
