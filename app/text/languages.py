"""Languages: how text in each is segmented, and how much speech its characters become."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Language:
    """`segmenter` is sentencex's code. Speech tokens are 40 ms each."""

    code: str
    name: str
    segmenter: str
    tokens_per_char: float

    def chunk_chars(self, chunk_size: int) -> int:
        """The characters that become as many speech tokens as `chunk_size` English ones."""
        return round(chunk_size * ENGLISH.tokens_per_char / self.tokens_per_char)


ENGLISH = Language("en", "English", segmenter="en", tokens_per_char=1.9)
