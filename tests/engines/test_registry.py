import logging
import subprocess
import sys

import pytest

from app.core.engine_config import EngineConfig
from app.core.errors import StartupError
from app.engines import registry
from app.engines.registry import ENGINES, choose_engine, load_engine
from app.model_files.manifest import ENGLISH

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


def test_rejects_a_missing_package_at_start(tmp_path):
    with pytest.raises(StartupError, match="there is no package 'no_such'"):
        choose_engine("no_such.engines:Engine", tmp_path)


def test_existing_package_is_imported_by_the_worker_only(tmp_path):
    assert choose_engine(f"{__name__}:NoSuchClass", tmp_path) == f"{__name__}:NoSuchClass"


def test_registry_imports_no_engine_and_no_torch():
    code = """
import sys
import app.engines.registry
heavy = {"torch", "onnxruntime", "piper", "app.engines.piper.engine"}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture
def without(monkeypatch):
    """`without("torch")`: as if that package were not installed."""

    def hide(*names):
        found = registry.find_spec
        monkeypatch.setattr(registry, "find_spec", lambda n: None if n in names else found(n))

    return hide


@pytest.fixture
def weights(tmp_path):
    for name in ENGLISH.files:
        (tmp_path / name).touch()
    return tmp_path


def rejection(model, folder):
    with pytest.raises(StartupError) as rejected:
        choose_engine(model, folder)
    assert "\n" not in str(rejected.value)
    return str(rejected.value)


def test_auto_is_chatterbox_if_its_files_are_there_else_preview(weights, tmp_path_factory, caplog):
    assert choose_engine("auto", weights) == "chatterbox"
    with caplog.at_level(logging.WARNING):
        assert choose_engine("auto", tmp_path_factory.mktemp("empty")) == "preview"
    assert "chatterbox-tts models download" in caplog.text


@pytest.mark.parametrize("package", ENGINES["chatterbox"].packages)
@pytest.mark.parametrize("model", ["chatterbox", "auto"])
def test_missing_chatterbox_extra_is_one_line_that_names_the_command(
    weights, without, model, package
):
    without(package)
    assert "in a clone, pip install -c .ci/constraints.txt '.[chatterbox]'" in rejection(
        model, weights
    )


def test_missing_chatterbox_extra_is_named_before_missing_files(tmp_path, without):
    without("torch")
    assert "pip install -c .ci/constraints.txt '.[chatterbox]'" in rejection("chatterbox", tmp_path)


def test_missing_files_are_named_with_the_command(tmp_path):
    said = rejection("chatterbox", tmp_path)
    assert "lacks ve.safetensors" in said
    assert "chatterbox-tts models download" in said


def test_auto_without_files_and_torch_is_preview(tmp_path, without):
    without(*ENGINES["chatterbox"].packages)
    assert choose_engine("auto", tmp_path) == "preview"


@pytest.mark.parametrize("model", ["preview", "auto"])
def test_missing_preview_extra_names_the_command(tmp_path, without, model):
    without("piper")
    said = rejection(model, tmp_path)
    assert "pip install -c .ci/constraints.txt '.[preview]'" in said
    assert ("chatterbox-tts models download" in said) == (model == "auto")
