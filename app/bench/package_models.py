"""Load a variant with the package's own classes, from the files in a folder, without a network.

Called by `bench.upstream` and by the engine's tests.
"""

import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any
from unittest import mock

from chatterbox.models.t3.llama_configs import LLAMA_CONFIGS
from chatterbox.models.tokenizers import tokenizer as tokenizer_module
from chatterbox.mtl_tts import ChatterboxMultilingualTTS
from chatterbox.tts import ChatterboxTTS
from chatterbox.tts_turbo import ChatterboxTurboTTS

from app.bench.random_tokenizers import CANGJIE_FILE
from app.engines.chatterbox.checkpoint.loader import SkipWeightInit
from app.engines.chatterbox.variants import NANO, TURBO


def load_package_model(variant: str, folder: Path, device: str) -> Any:
    """The package's model of that name in `VARIANTS`."""
    with redirect_stdout(StringIO()), SkipWeightInit():  # it prints
        return _LOADERS[variant](folder, device)


def _load_multilingual(folder: Path, device: str) -> ChatterboxMultilingualTTS:
    """Without Chinese word segmentation, whose model would be downloaded."""
    converter = tokenizer_module.ChineseCangjieConverter
    with (
        mock.patch.object(tokenizer_module, "hf_hub_download", return_value=folder / CANGJIE_FILE),
        mock.patch.object(converter, "_init_segmenter", return_value=None),
    ):
        return ChatterboxMultilingualTTS.from_local(folder, device)


def _load_nano(folder: Path, device: str) -> ChatterboxTurboTTS:
    """By the class of Turbo, as the package's later versions do."""
    small = LLAMA_CONFIGS[NANO.t3.config["llama_config_name"]]
    with (
        tempfile.TemporaryDirectory(prefix="tts-nano-") as name,
        mock.patch.dict(LLAMA_CONFIGS, {TURBO.t3.config["llama_config_name"]: small}),
    ):
        for path in folder.iterdir():
            link = TURBO.manifest.t3 if path.name == NANO.manifest.t3 else path.name
            (Path(name) / link).symlink_to(path.absolute())
        return ChatterboxTurboTTS.from_local(name, device)


_LOADERS: dict[str, Callable[[Path, str], Any]] = {
    "chatterbox": ChatterboxTTS.from_local,
    "turbo": ChatterboxTurboTTS.from_local,
    "nano": _load_nano,
    "multilingual": _load_multilingual,
}
