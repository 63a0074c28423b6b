"""Turn a text chunk in one of 23 languages into T3's text tokens."""

from pathlib import Path
from unicodedata import normalize

import torch
from chatterbox.models.tokenizers import EnTokenizer
from chatterbox.mtl_tts import punc_norm
from torch import Tensor

from app.core.errors import EmptyText
from app.engines.chatterbox.frontend.helpers import load_preparations
from app.engines.chatterbox.frontend.plain_text import NO_CONTROL_TOKENS


class MultilingualTokenizer:
    """As upstream's `MTLTokenizer`, but unlike that it downloads nothing.

    `missing`: reasons, by code, why languages cannot be prepared. `tokenizer`: the tokens.
    """

    def __init__(self, path: str) -> None:
        """Read the tokenizer at `path`, and what languages need in the same folder."""
        self._tokens = EnTokenizer(path)
        self.tokenizer = self._tokens.tokenizer
        self._preparations, self.missing = load_preparations(Path(path).parent)

    def encode(self, text: str, language: str) -> list[int]:
        """Token ids without the language's; names of control tokens are read as words."""
        plain = normalize("NFKD", text.lower()).translate(NO_CONTROL_TOKENS)
        prepare = self._preparations.get(language)
        ids: list[int] = self._tokens.encode(prepare(plain) if prepare else plain)
        return ids

    def prefix(self, language: str) -> list[int]:
        """The language's token."""
        ids: list[int] = self._tokens.encode(f"[{language}]")
        return ids


class MultilingualFrontend:
    def __init__(self, tokenizer: MultilingualTokenizer) -> None:
        self._tokenizer = tokenizer
        self.missing_languages = tokenizer.missing

    def tokenize(self, text: str, language: str) -> Tensor:
        """Tokens, int64 [1, n], without start and stop. Unlike upstream, raises `EmptyText`."""
        if not self._tokenizer.encode(text.strip(), language):
            raise EmptyText("There is nothing to say in the text.", param="text")
        ids = self._tokenizer.encode(punc_norm(text), language)
        return torch.tensor([self._tokenizer.prefix(language) + ids])
