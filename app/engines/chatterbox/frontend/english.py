"""Turn an English text chunk into T3's text tokens."""

import torch
from chatterbox.models.tokenizers import EnTokenizer
from chatterbox.tts import punc_norm
from torch import Tensor

from app.core.errors import EmptyText
from app.engines.chatterbox.frontend.plain_text import NO_CONTROL_TOKENS


class EnglishFrontend:
    def __init__(self, tokenizer: EnTokenizer) -> None:
        self._tokenizer = tokenizer

    def tokenize(self, text: str, language: str = "en") -> Tensor:
        """Tokens, int64 [1, n], without start and stop.

        Unlike upstream, raises `EmptyText`, and reads the names of control tokens as words.
        """
        if not self._tokenizer.encode(text.strip()):
            raise EmptyText("There is nothing to say in the text.", param="text")
        return torch.tensor([self._tokenizer.encode(punc_norm(text.translate(NO_CONTROL_TOKENS)))])
