"""Turn a text chunk into Turbo's text tokens, and a limit for its speech."""

import torch
from chatterbox.tts_turbo import punc_norm
from torch import Tensor

from app.core.errors import EmptyText
from app.engines.chatterbox.frontend.plain_text import only_tags_in_brackets
from app.engines.chatterbox.frontend.turbo_tokenizer import TurboTokenizer
from app.engines.chatterbox.variants import ModelSpec


class TurboFrontend:
    def __init__(self, tokenizer: TurboTokenizer, spec: ModelSpec) -> None:
        self._tokenizer = tokenizer
        self._spec = spec

    def tokenize(self, text: str, language: str = "en") -> Tensor:
        """Tokens, int64 [1, n].

        Unlike upstream, raises `EmptyText`, and reads words in brackets that are no tags as words.
        """
        if not text.strip():
            raise EmptyText("There is nothing to say in the text.", param="text")
        return torch.tensor([self._tokenizer.encode(punc_norm(only_tags_in_brackets(text)))])

    def max_tokens(self, text: str, language: str = "en") -> int:
        """Speech tokens after which T3 has missed its stop token, see `FrontendSpec`."""
        budget = self._spec.frontend
        plausible = int(budget.runaway_factor * budget.tokens_per_char * len(text))
        return min(self._spec.t3.max_tokens, plausible + budget.spare_tokens)
