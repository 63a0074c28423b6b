"""Load a variant with the package's own classes, from the files in a folder, without a network.

Called by `bench.upstream`, with what its `generate` needs to say as much as this engine, and by the
engine's tests.
"""

import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
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
        return PACKAGE_MODELS[variant].load(folder, device)


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


@dataclass(frozen=True)
class PackageModel:
    """One variant's class in the package.

    `t3_method`: the method of its T3 that generates speech tokens, whose argument `limit` allows
    `beside_limit` tokens more than it says. `options`: of `generate`, where its defaults differ
    from this engine's. `t3_config`: attributes of `T3Config` that differ from the package's while
    it generates.
    """

    load: Callable[[Path, str], Any]
    t3_method: str = "inference"
    limit: str = "max_new_tokens"
    beside_limit: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    t3_config: dict[str, Any] = field(default_factory=dict)


_TURBO = PackageModel(
    ChatterboxTurboTTS.from_local, "inference_turbo", limit="max_gen_len", beside_limit=1
)

PACKAGE_MODELS = {
    "chatterbox": PackageModel(ChatterboxTTS.from_local),
    "turbo": _TURBO,
    "nano": replace(_TURBO, load=_load_nano),
    "multilingual": PackageModel(
        _load_multilingual,
        options={"language_id": "en", "repetition_penalty": 1.2},
        t3_config={"is_multilingual": False},
    ),
}
"""By the variant's name.

Multilingual is compared without the alignment analyzer, which later versions of the package have
dropped, and with their repetition penalty. `T3Config.is_multilingual` decides on the analyzer
alone.
"""
