import subprocess
import sys

import pytest

from app.core.engine_config import EngineConfig
from app.core.errors import StartupError
from app.engines.registry import choose_engine, load_engine

CONFIG = EngineConfig(device="cpu", threads=2, model_path="")


class Scripted:
    """As much of an engine as a registry sees."""

    sample_rate = 24_000

    def __init__(self, config: EngineConfig) -> None:
        self.config = config


def test_an_import_path_loads_that_class_with_the_configuration():
    engine = load_engine(f"{__name__}:Scripted", CONFIG)
    assert isinstance(engine, Scripted)
    assert engine.config is CONFIG


class Slow(Scripted):
    sample_rate = 22_050


def test_an_engine_at_another_sample_rate_is_refused():
    with pytest.raises(StartupError, match="22050 Hz: it must be 24000"):
        load_engine(f"{__name__}:Slow", CONFIG)


def test_preview_is_an_engine():
    assert load_engine("preview", CONFIG).name == "preview"


@pytest.mark.parametrize("name", ["", "nonesuch", "json", "app.engines.piper.engine.PreviewEngine"])
def test_what_is_neither_name_nor_path_is_refused_with_the_names_there_are(name):
    with pytest.raises(StartupError, match=r"unknown engine .* preview"):
        load_engine(name, CONFIG)


@pytest.mark.parametrize(
    "path", ["no.such.module:Engine", f"{__name__}:NoSuchClass", ":Engine", "not a module:Engine"]
)
def test_a_path_that_leads_nowhere_is_refused_by_name(path):
    with pytest.raises(StartupError) as refusal:
        load_engine(path, CONFIG)
    assert path in str(refusal.value)


def test_a_package_that_is_not_there_is_refused_at_start(tmp_path):
    with pytest.raises(StartupError, match="there is no package 'no_such'"):
        choose_engine("no_such.engines:Engine", tmp_path)


def test_a_module_that_is_there_is_left_to_the_worker(tmp_path):
    assert choose_engine(f"{__name__}:NoSuchClass", tmp_path) == f"{__name__}:NoSuchClass"


def test_the_registry_imports_no_engine_and_no_torch():
    code = """
import sys
import app.engines.registry
heavy = {"torch", "onnxruntime", "piper", "app.engines.piper.engine"}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
