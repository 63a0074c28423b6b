import subprocess
import sys

import pytest

from app.core.engine_config import EngineConfig
from app.core.errors import StartupError
from app.engines.registry import load_engine

CONFIG = EngineConfig(device="cpu", threads=2, model_path="")


class Scripted:
    """Those attributes of an engine that the registry reads."""

    sample_rate = 24_000

    def __init__(self, config: EngineConfig) -> None:
        self.config = config


def test_import_path_loads_that_class_with_the_configuration():
    engine = load_engine(f"{__name__}:Scripted", CONFIG)
    assert isinstance(engine, Scripted)
    assert engine.config is CONFIG


class WrongRate(Scripted):
    sample_rate = 22_050


def test_rejects_an_engine_with_another_sample_rate():
    with pytest.raises(StartupError, match="22050 Hz: it must be 24000"):
        load_engine(f"{__name__}:WrongRate", CONFIG)


def test_preview_is_an_engine():
    assert load_engine("preview", CONFIG).name == "preview"


@pytest.mark.parametrize("name", ["", "nonesuch", "json", "app.engines.piper.engine.PreviewEngine"])
def test_rejects_unknown_names_listing_the_known_ones(name):
    with pytest.raises(StartupError, match=r"unknown engine .* preview"):
        load_engine(name, CONFIG)


@pytest.mark.parametrize(
    "path", ["no.such.module:Engine", f"{__name__}:NoSuchClass", ":Engine", "not a module:Engine"]
)
def test_rejects_a_path_that_cannot_be_imported(path):
    with pytest.raises(StartupError) as rejection:
        load_engine(path, CONFIG)
    assert path in str(rejection.value)


def test_registry_imports_no_engine_and_no_torch():
    code = """
import sys
import app.engines.selection
heavy = {"torch", "onnxruntime", "piper", "app.engines.piper.engine"}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
