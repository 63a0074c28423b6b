import logging

import pytest

from app.core.errors import StartupError
from app.engines import selection
from app.engines.registry import ENGINES
from app.engines.selection import choose_models
from app.model_files.manifest import ENGLISH


def choose(setting, model_path, device_kind="cpu"):
    """Names of the models, with commas."""
    models = choose_models(setting, model_path, device_kind)
    return ",".join(model.name for model in models)


def test_rejects_a_missing_package_at_start(tmp_path):
    with pytest.raises(StartupError, match="there is no package 'no_such'"):
        choose("no_such.engines:Engine", tmp_path)


def test_existing_package_is_imported_by_the_worker_only(tmp_path):
    assert choose(f"{__name__}:NoSuchClass", tmp_path) == f"{__name__}:NoSuchClass"


@pytest.fixture
def without(monkeypatch):
    """`without("torch")`: as if that package were not installed."""

    def hide(*names):
        found = selection.find_spec
        monkeypatch.setattr(selection, "find_spec", lambda n: None if n in names else found(n))

    return hide


@pytest.fixture
def weights(tmp_path):
    for name in ENGLISH.files:
        (tmp_path / name).touch()
    return tmp_path


def rejection(model, folder):
    with pytest.raises(StartupError) as rejected:
        choose_models(model, folder)
    assert "\n" not in str(rejected.value)
    return str(rejected.value)


def test_auto_is_chatterbox_if_its_files_are_there_else_preview(weights, tmp_path_factory, caplog):
    assert choose("auto", weights) == "chatterbox"
    with caplog.at_level(logging.WARNING):
        assert choose("auto", tmp_path_factory.mktemp("empty")) == "preview"
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
    assert choose("auto", tmp_path) == "preview"


@pytest.mark.parametrize("model", ["preview", "auto"])
def test_missing_preview_extra_names_the_command(tmp_path, without, model):
    without("piper")
    said = rejection(model, tmp_path)
    assert "pip install -c .ci/constraints.txt '.[preview]'" in said
    assert ("chatterbox-tts models download" in said) == (model == "auto")
