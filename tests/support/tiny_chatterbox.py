"""The Chatterbox engine at tiny size, for worker processes: loaded by import path."""

from app.bench.checkpoint import tiny_sizes
from app.core.engine_config import EngineConfig
from app.engines.chatterbox.engine import ChatterboxEngine


class TinyChatterbox(ChatterboxEngine):
    def __init__(self, config: EngineConfig) -> None:
        with tiny_sizes():
            super().__init__(config)
