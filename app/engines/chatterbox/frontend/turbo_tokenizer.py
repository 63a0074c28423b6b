"""Turbo's tokenizer: GPT-2's byte-level BPE with a token for each tag."""

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel


class TurboTokenizer:
    """As transformers' AutoTokenizer loads it, but `<|endoftext|>` in a text is text.

    `tokenizer`: the one of the package `tokenizers`.
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
