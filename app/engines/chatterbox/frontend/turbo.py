"""Turn a text chunk into Turbo's text tokens."""

import torch
from chatterbox.tts_turbo import punc_norm
from torch import Tensor

from app.core.errors import EmptyText
from app.engines.chatterbox.frontend.plain_text import only_tags_in_brackets
from app.engines.chatterbox.frontend.turbo_tokenizer import TurboTokenizer


class TurboFrontend:
    def __init__(self, tokenizer: TurboTokenizer) -> None:
        self._tokenizer = tokenizer

    def tokenize(self, text: str, language: str = "en") -> Tensor:
        """Tokens, int64 [1, n].

        Unlike upstream, raises `EmptyText`, and reads words in brackets that are no tags as words.
        """
        if not text.strip():
            raise EmptyText("There is nothing to say in the text.", param="text")
        return torch.tensor([self._tokenizer.encode(punc_norm(only_tags_in_brackets(text)))])
