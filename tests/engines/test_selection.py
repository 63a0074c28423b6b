import logging

import pytest

from app.core.engine_config import EngineConfig, ModelFiles
from app.core.errors import StartupError
from app.engines import selection
from app.engines.chatterbox.variants import PREFERENCE, VARIANTS, spec_of
from app.engines.registry import ENGINES
from app.engines.selection import choose_models, plain_text_of
from app.model_files.manifest import ENGLISH, MANIFESTS


def put_files(folder, model):
    for name in MANIFESTS[model].files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


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
    assert "-m pip install -c .ci/constraints.txt '.[chatterbox]'" in rejection(model, weights)


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


# --- several models -------------------------------------------------------------------------------


@pytest.fixture
def all_weights(weights):
    for name in ("turbo", "nano", "multilingual"):
        put_files(weights / name, name)
    return weights


@pytest.mark.parametrize(
    ("setting", "chosen"),
    [
        ("turbo", "turbo"),
        ("chatterbox-nano", "nano"),
        ("turbo,chatterbox-multilingual,preview", "turbo,multilingual,preview"),
        ("chatterbox,turbo,chatterbox-turbo", "chatterbox,turbo"),
        (f"{__name__}:A,turbo", f"{__name__}:A,turbo"),
    ],
)
def test_models_are_named_by_folder_or_id(all_weights, setting, chosen):
    assert choose(setting, all_weights) == chosen


@pytest.mark.parametrize(
    ("kind", "order"),
    [
        ("cuda", "turbo,multilingual,chatterbox,nano"),
        ("cpu", "nano,turbo,chatterbox,multilingual"),
    ],
)
def test_auto_takes_all_that_are_there_in_the_devices_order(all_weights, kind, order):
    assert choose("auto", all_weights, kind) == order


def test_auto_leaves_an_incomplete_model_out_and_says_so(all_weights, caplog):
    (all_weights / "turbo" / "merges.txt").unlink()
    assert choose("auto", all_weights, "cuda") == "multilingual,chatterbox,nano"
    [record] = caplog.records
    assert "leaves turbo out" in record.getMessage()
    assert "lacks merges.txt ('chatterbox-tts models download turbo'" in record.getMessage()


def test_model_has_its_folder_and_its_description(all_weights):
    files = ModelFiles("t3_mtl23ls_v2.safetensors", "")
    (all_weights / "multilingual" / files.t3).touch()
    (all_weights / "multilingual/Cangjie5_TC.json").unlink()
    files_of = {"turbo": ModelFiles(), "multilingual": files}.__getitem__
    turbo, multilingual = choose_models("turbo,multilingual", all_weights, files_of=files_of)
    assert (turbo.info.name, turbo.info.aliases) == ("chatterbox-turbo", ("turbo",))
    assert "laugh" in turbo.info.tags
    assert "min_p" in turbo.info.unused
    assert turbo.info.defaults["top_p"] == 0.95
    assert len(multilingual.info.languages) == 23
    assert multilingual.info.languages["de"] is None
    assert "lacks Cangjie5_TC.json" in multilingual.info.languages["zh"]
    config = multilingual.engine_config(EngineConfig("cpu", 1, ""))
    assert config.model_path == str(all_weights / "multilingual")
    assert (config.variant, config.files.t3) == ("multilingual", "t3_mtl23ls_v2.safetensors")


@pytest.mark.parametrize("name", ["foo", "chatterbox-preview", "turbo,flash"])
def test_unknown_model_error_lists_the_choices(all_weights, name):
    unknown = name.rpartition(",")[2]
    assert rejection(name, all_weights) == (
        f"no model {unknown!r}: give one of {', '.join(VARIANTS)}, preview, or module:Class of "
        "your own"
    )


def test_auto_prefers_every_model_on_every_device():
    for specs in PREFERENCE.values():
        assert sorted(spec.name for spec in specs) == sorted(VARIANTS)


@pytest.mark.parametrize(
    ("t3", "language"),
    [("t3_es_mx_latam.safetensors", "es"), ("t3_pt_br.safetensors", "pt"),
     ("t3_zh_cmn.safetensors", "zh"), ("t3_of_ones_own.safetensors", None)],
)  # fmt: skip
def test_single_language_pack_speaks_its_language_only(all_weights, t3, language):
    folder = all_weights / "multilingual"
    (folder / t3).touch()
    files = ModelFiles(t3)
    [model] = choose_models("multilingual", all_weights, files_of=lambda name: files)
    codes = list(model.info.languages)
    assert codes == [language] if language else len(codes) == 23
    assert model.info.defaults.get("language") == language
    read = spec_of("multilingual", files).manifest
    assert ("Cangjie5_TC.json" in read.files) == (language in ("zh", None))
    assert bool(read.archives) == (language in ("zh", None))


def test_pack_needs_no_files_of_other_languages(all_weights):
    folder = all_weights / "multilingual"
    (folder / "Cangjie5_TC.json").unlink()
    (folder / "t3_hi.safetensors").touch()
    files = ModelFiles("t3_hi.safetensors")
    [model] = choose_models("multilingual", all_weights, files_of=lambda name: files)
    assert model.info.languages == {"hi": None}


def test_missing_t3_of_a_language_pack_is_named(all_weights):
    with pytest.raises(StartupError, match=r"multilingual lacks t3_es\.safetensors"):
        choose_models(
            "multilingual", all_weights, files_of=lambda _: ModelFiles("t3_es.safetensors")
        )


def test_missing_mean_flow_is_named_where_a_model_has_none_of_its_own(all_weights):
    def mean_flow(name):
        return ModelFiles(mean_flow=True)

    choose_models("turbo,nano", all_weights, files_of=mean_flow)
    with pytest.raises(StartupError) as refused:
        choose_models("multilingual", all_weights, files_of=mean_flow)
    assert "multilingual lacks s3gen_meanflow.safetensors" in str(refused.value)
    assert "'chatterbox-tts models download multilingual'" in str(refused.value)
    (all_weights / "multilingual" / "s3gen_meanflow.safetensors").touch()
    (all_weights / "multilingual" / "s3gen.pt").unlink()
    choose_models("multilingual", all_weights, files_of=mean_flow)


def test_missing_files_of_a_variant_name_its_download(weights):
    said = rejection("turbo", weights)
    assert f"MODEL=turbo, but {weights / 'turbo'} lacks ve.safetensors" in said
    assert "'chatterbox-tts models download turbo'" in said


def test_files_in_another_models_place_are_named(tmp_path):
    put_files(tmp_path, "turbo")
    assert "t3_turbo_v1.safetensors is of Chatterbox Turbo, not of Chatterbox:" in rejection(
        "turbo", tmp_path
    )
    put_files(tmp_path / "nano", "turbo")
    assert "is of Chatterbox Turbo, not of Chatterbox Nano" in rejection("nano", tmp_path)


def test_original_may_have_its_own_folder(tmp_path):
    put_files(tmp_path / "chatterbox", "chatterbox")
    [model] = choose_models("auto", tmp_path)
    assert (model.name, model.folder) == ("chatterbox", str(tmp_path / "chatterbox"))


@pytest.mark.parametrize(
    ("setting", "kept"),
    [
        ("auto", "[laugh] (START)"),
        ("chatterbox,turbo", "(laugh) (START)"),
        ("turbo", "[laugh] (START)"),
        ("chatterbox-nano,preview", "[laugh] (START)"),
        ("preview", "[laugh] [START]"),
    ],
)
def test_text_is_prepared_for_the_first_model(all_weights, setting, kept):
    assert plain_text_of(setting, all_weights)("[laugh] [START]", "en").text == kept


def test_files_that_only_some_languages_need_may_be_missing(all_weights):
    (all_weights / "multilingual" / "Cangjie5_TC.json").unlink()
    (all_weights / "multilingual" / "spacy_ontonotes" / "weights.npz").unlink()
    assert choose("multilingual", all_weights) == "multilingual"
