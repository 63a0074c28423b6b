"""Resolve the setting MODEL to the models that the service runs; no engine is imported."""

import logging
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from app.core.engine_config import PUBLISHED_FILES, ModelFiles
from app.core.errors import StartupError
from app.core.model import Model, ModelInfo
from app.engines.chatterbox.frontend.helpers import missing_helper
from app.engines.chatterbox.frontend.plain_text import PLAIN_TEXTS
from app.engines.chatterbox.variants import PREFERENCE, VARIANTS, ModelSpec, spec_of
from app.engines.registry import ENGINES, PlainTextOf
from app.model_files.manifest import folder_of, refuse_files_of, refuse_other_variants
from app.text.english import PlainText
from app.text.languages import LANGUAGES
from app.text.punctuation import plain_punctuation

log = logging.getLogger(__name__)

DOWNLOAD_HINT = "'chatterbox-tts models download{}' fetches them"

FilesOf = Callable[[str], ModelFiles]
"""The files of a Chatterbox model, by its name."""

NAME_OF_ID = {spec.id: spec.name for spec in VARIANTS.values()}


def choose_models(
    setting: str,
    model_path: Path,
    device_kind: str = "cpu",
    files_of: FilesOf = lambda name: PUBLISHED_FILES,
) -> tuple[Model, ...]:
    """Resolve MODEL without importing an engine; the first model is the default.

    `device_kind`: "cpu" or "cuda". `files_of`: the files that the settings choose for a model.
    Raises `StartupError` with a command to run.
    """
    if setting == "auto":
        return _choose_automatically(model_path, device_kind, files_of)
    names = [NAME_OF_ID.get(name, name) for name in setting.split(",")]
    for name in names:
        _ensure_known(name)
    models = tuple(_model(name, model_path, files_of) for name in dict.fromkeys(names))
    for model in models:
        _ensure_installed(model)
        if absent := _absent(model):
            refuse_other_variants(Path(model.folder), _spec(model).manifest)
            if model.name != "chatterbox":
                refuse_files_of(_spec(model).manifest, model_path)
            raise StartupError(
                f"MODEL={model.name}, but {model.folder} lacks {', '.join(absent)}: "
                f"{_download_hint(model)}"
            )
    return models


def _choose_automatically(
    model_path: Path, device_kind: str, files_of: FilesOf
) -> tuple[Model, ...]:
    models = [_model(spec.name, model_path, files_of) for spec in PREFERENCE[device_kind]]
    complete = tuple(model for model in models if not _absent(model))
    for model in models:
        absent = _absent(model)
        if absent and (Path(model.folder) / _spec(model).manifest.t3).exists():
            log.warning(
                "MODEL=auto leaves %s out: %s lacks %s (%s)",
                *(model.name, model.folder, ", ".join(absent), _download_hint(model)),
            )
    if complete:
        _ensure_installed(complete[0])
        return complete
    refuse_other_variants(model_path)
    hint = DOWNLOAD_HINT.format("")
    packages = _missing_packages("chatterbox")
    log.warning(
        "speaking with the built-in preview voice, which ignores voice cloning: "
        "no Chatterbox weights in %s (%s)%s",
        *(model_path, hint, f". {packages}" if packages else ""),
    )
    preview = _model("preview", model_path)
    _ensure_installed(preview, f". Nor are Chatterbox's weights in {model_path}: {hint}")
    return (preview,)


def _ensure_known(name: str) -> None:
    if ":" not in name and name not in ENGINES and name not in VARIANTS:
        known = ", ".join([*VARIANTS, "preview"])
        raise StartupError(f"no model {name!r}: give one of {known}, or module:Class of your own")


def _model(name: str, model_path: Path, files_of: FilesOf = lambda name: PUBLISHED_FILES) -> Model:
    if name not in VARIANTS:
        info = ModelInfo(name, clones_voices=name != "preview")
        return Model(name, name, str(model_path), info)
    files = files_of(name)
    spec, folder = spec_of(name, files), folder_of(model_path, name)
    languages = {code: missing_helper(LANGUAGES[code], folder) for code in spec.languages}
    info = ModelInfo.of(spec, name=spec.id, aliases=(name,), languages=languages)
    return Model(name, "chatterbox", str(folder), info, files, spec.slot_needs)


def _spec(model: Model) -> ModelSpec:
    return spec_of(model.name, model.files)


def _absent(model: Model) -> list[str]:
    """Names of the files that a Chatterbox model lacks."""
    if model.engine != "chatterbox":
        return []
    return [name for name in _spec(model).needed_files if not (Path(model.folder) / name).is_file()]


def _download_hint(model: Model) -> str:
    return DOWNLOAD_HINT.format("" if model.name == "chatterbox" else f" {model.name}")


def _ensure_installed(model: Model, also: str = "") -> None:
    """Raise `StartupError` if the packages of the model's engine are not installed."""
    if model.engine in ENGINES:
        if missing := _missing_packages(model.engine):
            raise StartupError(f"{missing}{also}")
        return
    package = model.engine.partition(":")[0].partition(".")[0]  # finding more would import it
    if not find_spec(package):
        raise StartupError(f"MODEL: there is no package {package!r} to import an engine from")


def _missing_packages(engine: str) -> str | None:
    """Which packages an engine of this package lacks, and how they are installed."""
    built_in = ENGINES[engine]
    if all(map(find_spec, built_in.packages)):
        return None
    return (
        f"{built_in.absence}: in a clone, {sys.executable} -m pip install -c .ci/constraints.txt "
        f"'.[{engine}]'"
    )


def plain_text_of(setting: str, model_path: Path) -> PlainTextOf:
    """The function that prepares a text for the first model of MODEL, without loading it.

    For an engine of the user's own, the one for engines without `normalize_text`. Raises
    `StartupError` if there is no such engine; it need not be able to start.
    """
    name = setting.partition(",")[0]
    name = NAME_OF_ID.get(name, name)
    if name == "auto":
        models = [_model(spec.name, model_path) for spec in PREFERENCE["cpu"]]
        name = next((model.name for model in models if not _absent(model)), "preview")
    if ":" in name:
        return lambda text, language: PlainText(plain_punctuation(text), "")
    _ensure_known(name)
    if name in VARIANTS:
        return PLAIN_TEXTS[VARIANTS[name].frontend.kind]
    return ENGINES[name].plain_text
