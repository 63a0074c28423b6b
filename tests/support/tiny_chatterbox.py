"""The Chatterbox engine at tiny size, for worker processes: loaded by import path."""

from msgspec.structs import replace

from app.bench.checkpoint import tiny_sizes
from app.core.engine_config import EngineConfig
from app.engines.chatterbox.engine import ChatterboxEngine


class TinyChatterbox(ChatterboxEngine):
    def __init__(self, config: EngineConfig) -> None:
        with tiny_sizes():
            super().__init__(config)


class TinyTurbo(TinyChatterbox):
    """From the folder `turbo` in MODEL_PATH."""

    def __init__(self, config: EngineConfig) -> None:
        super().__init__(replace(config, variant="turbo", model_path=f"{config.model_path}/turbo"))
