"""The frontends by `FrontendSpec.kind`."""

from typing import Protocol

from torch import Tensor

from app.engines.chatterbox.frontend.english import EnglishFrontend


class Frontend(Protocol):
    def tokenize(self, text: str) -> Tensor:
        """Text tokens, int64 [1, n], without start and stop. Raises `EmptyText`."""
        ...

    def max_tokens(self, text: str) -> int:
        """The length limit of the chunk's speech, in tokens."""
        ...


FRONTENDS = {"english": EnglishFrontend}
