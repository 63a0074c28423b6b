"""The prefix cache: keys and values of the prompts' common beginning, a voice's conditioning."""

from collections import OrderedDict

from torch import Tensor

from app.engines.chatterbox.conditioning.conditionals import Conditionals

PREFIX_CACHE_SIZE = 4
"""Prefixes kept, 8 MB each at full size in float32, even of voices deleted meanwhile."""

Key = tuple[Conditionals, float]
"""A voice and its exaggeration."""


class PrefixCache:
    """The least recently used prefix is dropped first."""

    def __init__(self) -> None:
        self._prefixes: OrderedDict[Key, Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._prefixes)

    def get(self, key: Key) -> Tensor | None:
        if key in self._prefixes:
            self._prefixes.move_to_end(key)
        return self._prefixes.get(key)

    def put(self, key: Key, prefix_kv: Tensor) -> None:
        self._prefixes[key] = prefix_kv
        if len(self._prefixes) > PREFIX_CACHE_SIZE:
            self._prefixes.popitem(last=False)
