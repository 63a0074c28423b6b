"""Turbo's tokenizer: GPT-2's byte-level BPE with a token for each sound."""

from pathlib import Path

from transformers import AutoTokenizer


class TurboTokenizer:
    """Upstream's, without a network. `tokenizer`: the one of the package `tokenizers`."""

    def __init__(self, path: str) -> None:
        """Read the vocabulary at `path` and the other files beside it."""
        folder = Path(path).parent
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.tokenizer = self._tokenizer.backend_tokenizer

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, truncation=True).input_ids
        return ids
