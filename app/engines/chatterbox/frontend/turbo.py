"""Turn a text chunk into Turbo's text tokens, and a limit for its speech."""

import json
from pathlib import Path

import torch
from chatterbox.tts_turbo import punc_norm
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor

from app.core.errors import EmptyText
from app.engines.chatterbox.frontend.plain_text import only_tags_in_brackets
from app.engines.chatterbox.variants import ModelSpec


class TurboTokenizer:
    """GPT-2's byte-level BPE with a token for each tag, as transformers' AutoTokenizer loads it.

    Unlike there, `<|endoftext|>` in a text is text.
    """

    def __init__(self, path: str) -> None:
        """`path`: of `vocab.json`, beside `merges.txt` and `added_tokens.json`.

        Raises ValueError if the added tokens do not follow the others.
        """
        folder = Path(path).parent
        self.tokenizer = Tokenizer(BPE.from_file(path, str(folder / "merges.txt")))
        self.tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
        added = json.loads((folder / "added_tokens.json").read_text(encoding="utf-8"))
        for token, number in sorted(added.items(), key=lambda item: item[1]):
            if self.tokenizer.token_to_id(token) is None:
                self.tokenizer.add_tokens([AddedToken(token, normalized=False)])
            if self.tokenizer.token_to_id(token) != number:
                raise ValueError(f"{token} is not token {number}")

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text).ids
        return ids


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
