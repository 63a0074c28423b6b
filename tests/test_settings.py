"""The environment of each test is its own: no setting and no `.env` of the machine's."""

import math
import os
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from app.core.cpu import cpu_count, cpu_quota
from app.core.engine_config import ChatterboxOptions, EngineConfig, QueueSizes
from app.core.errors import StartupError
from app.core.params import SynthesisParams
from app.core.process_env import child_environment, visible_cuda_devices
from app.settings import (
    SAFE_KEY_LENGTH,
    Settings,
    load_settings,
    unexpanded_settings,
    unknown_settings,
    weak_key,
)
from tests.support.service import ROOT

PROMISED = {
    "API_KEY": None,
    "HOST": "0.0.0.0",  # noqa: S104
    "PORT": 8000,
    "DEBUG": False,
    "LOG_LEVEL": "INFO",
    "WORKERS_PER_DEVICE": 1,
    "CONCURRENT_REQUESTS_PER_WORKER": 1,
    "VOICES_DIR": "voices/",
    "PRELOADED_VOICES_DIR": "preloaded-voices/",
    "MODEL_PATH": "models",
    "CORS_ORIGINS": "*",
    "TTS_VOICE_EXAGGERATION_FACTOR": 0.5,
    "TTS_CFG_GUIDANCE_WEIGHT": 0.5,
    "TTS_SYNTHESIS_TEMPERATURE": 0.8,
    "TTS_TEXT_PROCESSING_CHUNK_SIZE": 150,
    "TTS_AUDIO_TOKENS_PER_SLICE": 35,
    "TTS_REMOVE_LEADING_MILLISECONDS": 0,
    "TTS_REMOVE_TRAILING_MILLISECONDS": 0,
    "TTS_CHUNK_OVERLAP_STRATEGY": "full",
    "TTS_CROSSFADE_DURATION_MILLISECONDS": 30,
    "TTS_SPEECH_TOKEN_QUEUE_MAX_SIZE": 2,
    "TTS_PCM_CHUNK_QUEUE_MAX_SIZE": 3,
}
"""Names and defaults that were promised from the beginning."""

EXAMPLE = """\
# Server Settings
API_KEY="your-super-secret-api-key"
CONCURRENT_REQUESTS_PER_WORKER=2 # Allow 2 TTS tasks per GPU

# TTS ChatterboxOptions for Low Latency
TTS_SPEECH_TOKEN_QUEUE_MAX_SIZE=2
TTS_PCM_CHUNK_QUEUE_MAX_SIZE=3
"""
"""The `.env` file that was promised to work."""

GROUPS = {
    "api_key": "Core application settings",
    "model": "TTS engine",
    "max_text_length": "Limits",
}
"""Headings in `.env.example`, each above this setting."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    ours = {field.upper() for field in Settings.model_fields}
    for name in [name for name in os.environ if name in ours or name.startswith("TTS_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("app.settings.ENV_FILE", Path(".env"))
    return tmp_path


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Settings]:
    """`given(NAME=value)`: the settings in this environment."""

    def given(**environment: Any) -> Settings:
        for name, value in environment.items():
            monkeypatch.setenv(name, str(value))
        return load_settings(api_key_required=False)

    return given


def complaints(given: Callable[..., Settings], **environment: Any) -> list[str]:
    with pytest.raises(StartupError) as refusal:
        given(**environment)
    return str(refusal.value).splitlines()


@pytest.mark.parametrize("name", PROMISED)
def test_documented_variables_have_their_defaults(name: str) -> None:
    default = PROMISED[name]
    value = getattr(load_settings(api_key_required=False), name.lower())
    match name:
        case "API_KEY":
            assert not value.get_secret_value()
        case "CORS_ORIGINS":
            assert value == (default,)
        case _ if isinstance(value, Path):
            assert value == Path(str(default))
        case _:
            assert value == default


def shown(value: Any) -> str:
    """A default as it is written in tables and files."""
    if isinstance(value, tuple | dict):
        return ",".join(value)
    return "" if value is None else str(value)


# --- names and defaults ---------------------------------------------------------------------------


def test_synthesis_parameters_follow_the_settings(given: Callable[..., Settings]) -> None:
    values = {
        "cfg_guidance_weight": 2,
        "synthesis_temperature": 2,
        "voice_exaggeration_factor": 2,
        "text_processing_chunk_size": 100,
        "audio_tokens_per_slice": 100,
        "remove_leading_milliseconds": 1,
        "remove_trailing_milliseconds": 1,
        "crossfade_duration_milliseconds": 1,
        "chunk_overlap_strategy": "zero",
    }
    params = given(**{f"TTS_{name.upper()}": value for name, value in values.items()})
    values["chunk_overlap_method"] = values.pop("chunk_overlap_strategy")
    assert {name: getattr(params.synthesis_params(), name) for name in values} == values


def test_accuracy_options_follow_the_settings(given: Callable[..., Settings]) -> None:
    values = {
        "first_slice_tokens": 17,
        "slice_growth": 1.5,
        "voice_prompt_seconds": 3,
        "t3_dtype": "int8",
        "s3gen_dtype": "bfloat16",
        "s3gen_context_tokens": 50,
    }
    settings = given(**{f"TTS_{name.upper()}": value for name, value in values.items()})
    assert settings.tuning("cpu") == settings.tuning("cuda") == ChatterboxOptions(**values)


def test_slices_grow_by_default_on_cpus_only(given: Callable[..., Settings]) -> None:
    assert given().tuning("cuda") == ChatterboxOptions(first_slice_tokens=20)
    assert given().tuning("cpu") == ChatterboxOptions(first_slice_tokens=20, slice_growth=2.0)
    settings = given(TTS_FIRST_SLICE_TOKENS=0, TTS_SLICE_GROWTH=1)
    assert settings.tuning("cpu") == settings.tuning("cuda") == ChatterboxOptions()


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_engine_config_follows_the_settings(given: Callable[..., Settings], kind: str) -> None:
    settings = given(MODEL_PATH="weights", WATERMARK="false", TTS_T3_DTYPE="float32")
    tuning = settings.tuning(kind)
    compiled = kind == "cuda"
    expected = EngineConfig(kind, 3, "weights", 2, False, compiled, tuning)
    assert settings.engine_config(kind, threads=3, slots=2) == expected


def test_the_queues_of_a_pipeline_are_as_long_as_set(given: Callable[..., Settings]) -> None:
    settings = given(TTS_SPEECH_TOKEN_QUEUE_MAX_SIZE=5, TTS_PCM_CHUNK_QUEUE_MAX_SIZE=7)
    assert settings.queue_sizes() == QueueSizes(slices=5, audio=7)


def test_the_defaults_of_a_synthesis_have_a_seed_for_each_request() -> None:
    settings = load_settings(api_key_required=False)
    params = settings.synthesis_params()
    assert params == SynthesisParams(seed=params.seed)
    assert len({settings.synthesis_params().seed for _ in range(20)}) > 15


def test_the_environment_wins_over_the_file(folder: Path, given: Callable[..., Settings]) -> None:
    (folder / ".env").write_text("PORT=9001\nHOST=::1\n")
    assert given().port == 9001
    settings = given(PORT=9002)
    assert (settings.port, settings.host) == (9002, "::1")


def test_debug_means_debug_logging(given: Callable[..., Settings]) -> None:
    assert given(LOG_LEVEL="warning").effective_log_level == "WARNING"
    assert given(DEBUG="true").effective_log_level == "DEBUG"


def test_a_megabyte_of_an_upload_is_1024_times_1024_bytes(given: Callable[..., Settings]) -> None:
    assert given(MAX_UPLOAD_MB="2").max_upload_bytes == 2 * 1024 * 1024


def test_a_health_port_is_optional(given: Callable[..., Settings]) -> None:
    assert given().port_health is None
    assert given(PORT_HEALTH="").port_health is None
    assert given(PORT_HEALTH="9003").port_health == 9003


@pytest.mark.parametrize(
    ("value", "origins"),
    [
        ("*", ("*",)),
        ("https://one.test", ("https://one.test",)),
        (
            "http://localhost:3000, https://your-frontend.com/ ,",
            ("http://localhost:3000", "https://your-frontend.com"),
        ),
        ('"http://one.test,http://two.test"', ("http://one.test", "http://two.test")),
        ("", ()),
    ],
)
def test_origins_are_a_list(
    value: str, origins: tuple[str, ...], given: Callable[..., Settings]
) -> None:
    assert given(CORS_ORIGINS=value).cors_origins == origins


@pytest.mark.parametrize(
    ("value", "aliases"),
    [
        ("", {}),
        ("alloy=austen.wav", {"alloy": "austen.wav"}),
        (
            " alloy = austen , My voice=my voice.wav,",
            {"alloy": "austen", "My voice": "my voice.wav"},
        ),
        ('"nova=my.wav" # hers', {"nova": "my.wav"}),
        ("zoe\u0308=me.wav", {"zo\u00eb": "me.wav"}),
    ],
)
def test_aliases_are_name_voice_pairs(
    value: str, aliases: dict[str, str], given: Callable[..., Settings]
) -> None:
    assert given(VOICE_ALIASES=value).voice_aliases == aliases


# --- quotes and comments --------------------------------------------------------------------------


def as_docker_hands_over(env_file: str) -> dict[str, str]:
    """`docker run --env-file`: lines split at the first `=`, and nothing else."""
    lines = [line for line in env_file.splitlines() if line and not line.startswith("#")]
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


@pytest.mark.parametrize("through_docker", [False, True])
def test_promised_env_file_works(
    through_docker: bool, folder: Path, given: Callable[..., Settings]
) -> None:
    environment = as_docker_hands_over(EXAMPLE) if through_docker else {}
    if not through_docker:
        (folder / ".env").write_text(EXAMPLE)
    settings = given(**environment)
    assert settings.api_key.get_secret_value() == "your-super-secret-api-key"
    assert settings.concurrent_requests_per_worker == 2
    assert unknown_settings() == []


@pytest.mark.parametrize(
    ("written", "key"),
    [
        ("plain", "plain"),
        ("  spaced  ", "spaced"),
        ('"quoted"', "quoted"),
        ("'quoted' # and why", "quoted"),
        ('"a # in it"', "a # in it"),
        ("a#b", "a#b"),
        ("#a", "#a"),
        (" # only a comment", ""),
        ("it's", "it's"),
        ("a=b=c", "a=b=c"),
    ],
)
def test_env_file_means_the_same_with_and_without_docker(
    written: str, key: str, folder: Path, given: Callable[..., Settings]
) -> None:
    (folder / ".env").write_text(f"API_KEY={written}\n")
    assert given().api_key.get_secret_value() == key
    assert given(API_KEY=written).api_key.get_secret_value() == key


def test_a_key_is_never_cut_silently(given: Callable[..., Settings]) -> None:
    key = "correct horse #battery staple"
    assert given(API_KEY=f'"{key}"').api_key.get_secret_value() == key
    [complaint] = complaints(given, API_KEY=key)
    assert "put the key into quotes" in complaint
    assert "staple" not in complaint


SECRETS = {
    "'ab${cd}ef'": "ab${cd}ef",
    '"ab${cd}ef"': "ab${cd}ef",
    "ab${cd}ef": "ab${cd}ef",
    "$HOME": "$HOME",
    "${HOME:-x}y": "${HOME:-x}y",
    "a$$b": "a$$b",
    "a$(id)`id`": "a$(id)`id`",
    '"a\\nb\\t\\x41"': r"a\nb\t\x41",
    r"'a\\b\'c'": r"a\\b\'c",
    r"a\b": r"a\b",
    "'a #b'": "a #b",
    '"it\'s #1"  # why': "it's #1",
    "#1#2": "#1#2",
    "'a'b'": "a'b",
    "'ab'cd": "'ab'cd",
    'ab"cd': 'ab"cd',
    "a'b'": "a'b'",
    "%41+&=?{}!*": "%41+&=?{}!*",
    "a, b; c": "a, b; c",
}
"""Keys by the way in which they are written."""


@pytest.mark.parametrize("written", SECRETS)
@pytest.mark.parametrize(
    "line",
    ["API_KEY={}\n", "export API_KEY={}\r\nPORT=1\r\n", "\ufeffapi_key={}", "X='\nAPI_KEY={}\n"],
    ids=["plain", "export and CRLF", "BOM", "after junk"],
)
def test_key_is_taken_literally_from_the_file(
    line: str, written: str, folder: Path, given: Callable[..., Settings], caplog: Any
) -> None:
    (folder / ".env").write_bytes(line.replace("{}", written).encode())
    assert given().api_key.get_secret_value() == SECRETS[written]
    assert caplog.messages == []


@pytest.mark.parametrize("written", SECRETS)
def test_key_is_taken_literally_from_the_environment(
    written: str, given: Callable[..., Settings]
) -> None:
    assert given(API_KEY=written).api_key.get_secret_value() == SECRETS[written]


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("correct horse #battery", "put the key into quotes"),
        ("'ab' cd #ef", "put the key into quotes"),
        ("'ab' #cd'", "put the key into quotes"),
        ('"ab"#cd" ef', "put the key into quotes"),
        ("' ab'", "begins or ends with a space"),
        ('"ab\t"', "begins or ends with a space"),
    ],
)
def test_key_that_may_be_cut_is_refused_from_any_source(
    written: str, reason: str, folder: Path, given: Callable[..., Settings]
) -> None:
    [from_environment] = complaints(given, API_KEY=written)
    (folder / ".env").write_text(f"API_KEY={written}\n")
    os.environ.pop("API_KEY")
    [from_file] = complaints(given)
    for complaint in (from_environment, from_file):
        assert reason in complaint
        assert "ab" not in complaint
        assert "horse" not in complaint


@pytest.mark.parametrize("content", ["API_KEY='ab\ncd'\n", 'API_KEY="ab', "export API_KEY='ab\"\n"])
def test_key_with_an_open_quote_is_refused(
    content: str, folder: Path, given: Callable[..., Settings]
) -> None:
    (folder / ".env").write_text(content)
    [complaint] = complaints(given)
    assert complaint == "API_KEY in .env: the quote at its start is not closed at its end"


@pytest.mark.parametrize("content", [b"API_KEY=\xff\n", "API_KEY=abc".encode("utf-16")])
def test_file_in_another_encoding_is_refused(
    content: bytes, folder: Path, given: Callable[..., Settings]
) -> None:
    (folder / ".env").write_bytes(content)
    [complaint] = complaints(given)
    assert complaint.startswith("cannot read .env: 'utf-8' codec can't decode")


def test_other_settings_are_taken_literally_too(
    folder: Path, given: Callable[..., Settings]
) -> None:
    (folder / ".env").write_text("VOICES_DIR='my $HOME'\nVOICE_ALIASES=a=${b}.wav # mine\n")
    settings = given()
    assert settings.voices_dir == Path("my $HOME")
    assert settings.voice_aliases == {"a": "${b}.wav"}


@pytest.mark.parametrize(
    ("host", "key", "warned"),
    [
        ("0.0.0.0", "x" * 15, True),  # noqa: S104
        ("0.0.0.0", "x" * 16, False),  # noqa: S104
        ("::", "secret", True),
        ("127.0.0.1", "secret", False),
    ],
)
def test_warns_of_a_short_key_on_a_network(
    host: str, key: str, warned: bool, given: Callable[..., Settings]
) -> None:
    warnings = weak_key(given(HOST=host, API_KEY=key))
    assert bool(warnings) is warned
    assert key not in "".join(warnings)


# --- what is wrong --------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, "", "   ", '""', "# later"])
def test_requires_an_api_key(key: str | None, given: Callable[..., Settings]) -> None:
    if key is not None:
        given(API_KEY=f" {key}")
    with pytest.raises(StartupError, match="API_KEY is not set"):
        load_settings(api_key_required=True)
    given(HOST="127.0.0.1")
    settings = load_settings(api_key_required=True)
    assert settings.key_was_made
    assert len(settings.api_key.get_secret_value()) >= SAFE_KEY_LENGTH


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "0"),
        ("PORT", "65536"),
        ("PORT", "http"),
        ("PORT_HEALTH", "-1"),
        ("LOG_LEVEL", "LOUD"),
        ("DEBUG", "perhaps"),
        ("WORKERS_PER_DEVICE", "0"),
        ("WORKERS_PER_DEVICE", "1.5"),
        ("CONCURRENT_REQUESTS_PER_WORKER", "-1"),
        ("CONCURRENT_REQUESTS_PER_WORKER", "257"),
        ("CONCURRENT_REQUESTS_PER_WORKER", "2.0"),
        ("CONCURRENT_REQUESTS_PER_WORKER", "many"),
        ("MODEL", "os; rm"),
        ("TTS_VOICE_EXAGGERATION_FACTOR", "2.1"),
        ("TTS_CFG_GUIDANCE_WEIGHT", "-0.1"),
        ("TTS_SYNTHESIS_TEMPERATURE", "0"),
        ("TTS_SYNTHESIS_TEMPERATURE", "nan"),
        ("TTS_TEXT_PROCESSING_CHUNK_SIZE", "19"),
        ("TTS_AUDIO_TOKENS_PER_SLICE", "501"),
        ("TTS_REMOVE_LEADING_MILLISECONDS", "5001"),
        ("TTS_REMOVE_TRAILING_MILLISECONDS", "-1"),
        ("TTS_CHUNK_OVERLAP_STRATEGY", "half"),
        ("TTS_CROSSFADE_DURATION_MILLISECONDS", "501"),
        ("TTS_SPEECH_TOKEN_QUEUE_MAX_SIZE", "0"),
        ("TTS_PCM_CHUNK_QUEUE_MAX_SIZE", "0"),
        ("QUEUE_TIMEOUT_SECONDS", "inf"),
        ("QUEUE_TIMEOUT_SECONDS", "0"),
        ("MAX_UPLOAD_MB", "0"),
        ("VOICE_ALIASES", "alloy"),
        ("VOICE_ALIASES", "alloy="),
        ("VOICE_ALIASES", "=austen.wav"),
        ("VOICE_ALIASES", "alloy=a.wav,alloy=b.wav"),
        ("PUBLIC_VOICE_LIST", "perhaps"),
    ],
)
def test_invalid_setting_is_one_line_with_its_name(
    name: str, value: str, given: Callable[..., Settings]
) -> None:
    [line] = complaints(given, **{name: value})
    assert line.startswith(f"{name}: ")
    assert line.endswith(f"(it is {value!r})")


def test_every_wrong_value_has_a_line(given: Callable[..., Settings]) -> None:
    lines = complaints(given, PORT="x", MODEL="?", MAX_UPLOAD_MB="-1")
    assert sorted(line.partition(":")[0] for line in lines) == ["MAX_UPLOAD_MB", "MODEL", "PORT"]


def test_the_key_is_never_shown(given: Callable[..., Settings]) -> None:
    settings = given(API_KEY="hush-1234")
    assert "hush" not in f"{settings!r} {settings} {settings.model_dump_json()}"
    assert "hush" not in "\n".join(complaints(given, PORT="x"))


@pytest.mark.parametrize(
    ("typo", "meant"),
    [
        ("PROT", "PORT"),
        ("HSOT", "HOST"),
        ("MODLE", "MODEL"),
        ("DEUBG", "DEBUG"),
        ("APIKEY", "API_KEY"),
        ("API_KYE", "API_KEY"),
        ("LOG_LEVL", "LOG_LEVEL"),
        ("WORKER_PER_DEVICE", "WORKERS_PER_DEVICE"),
    ],
)
def test_suggests_the_setting_for_a_typo_in_env_file(typo: str, meant: str, folder: Path) -> None:
    (folder / ".env").write_text(f"{typo}=1\n")
    assert unknown_settings() == [f"{typo} in .env is not a setting; did you mean {meant}?"]


def test_warns_of_unknown_variables_with_prefix(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TTS_SYNTHESIS_TEMPERATUR", "1")
    monkeypatch.setenv("TTS_CFG_GUIDANCE_WEIGHT", "1")
    monkeypatch.setenv("TTS_SPEED", "1")
    monkeypatch.setenv("PROT", "1")
    warnings = sorted(unknown_settings(), reverse=True)
    assert warnings[1].startswith("TTS_SPEED in the environment is not a setting")
    assert "TTS_SYNTHESIS_TEMPERATUR in the environment" in warnings[0]
    assert "did you mean TTS_SYNTHESIS_TEMPERATURE?" in warnings[0]


@pytest.mark.parametrize(
    ("line", "warned"),
    [
        ("VOICES_DIR=${HOME}/voices", True),
        ('API_KEY="${OTHER}"', True),
        ("api_key = ab${cd}", True),
        ("API_KEY='ab${cd}ef'", False),
        ("API_KEY=a$b$$", False),
        ("OTHER=${HOME}", False),
    ],
)
def test_warns_of_what_other_programs_would_replace(line: str, warned: bool, folder: Path) -> None:
    (folder / ".env").write_text(f"{line}\n")
    warnings = unexpanded_settings()
    assert bool(warnings) is warned
    assert all("is taken as it is written" in warning for warning in warnings)
    assert "ab" not in "".join(warnings)


def test_file_may_be_a_pipe(folder: Path, given: Callable[..., Settings]) -> None:
    os.mkfifo(folder / ".env")
    writing = Thread(target=(folder / ".env").write_text, args=["API_KEY='from a $pipe'\n"])
    writing.start()
    assert given().api_key.get_secret_value() == "from a $pipe"
    assert unknown_settings() == unexpanded_settings() == []
    writing.join()


def test_does_not_warn_of_unrelated_names(folder: Path) -> None:
    names = """PATH HOME USER TERM SHELL LANG TZ ROOT HOSTNAME HTTP_PROXY HF_TOKEN HF_HOME
        HF_API_KEY OPENAI_API_KEY POSTGRES_PORT DB_PORT DB_HOST REDIS_HOST SMTP_PORT HOST_IP
        TORCH_HOME MODEL_NAME LOG_FILE LOG_DIR REPORT WORKERS KEY NAME PYTHONPATH TMPDIR"""
    (folder / ".env").write_text("".join(f"{name}=1\n" for name in names.split()))
    assert unknown_settings() == []


def test_health_port_must_differ_from_port(given: Callable[..., Settings]) -> None:
    [line] = complaints(given, PORT="9003", PORT_HEALTH="9003")
    assert line == "PORT_HEALTH: must be another port than PORT (it is '9003')"


@pytest.mark.parametrize(
    "model", ["turbo", "chatterbox-nano", "Turbo, multilingual", "a.b:C,preview", "auto", "turbo,"]
)
def test_model_is_one_or_several(given: Callable[..., Settings], model: str) -> None:
    expected = model.replace(" ", "").replace("Turbo", "turbo").rstrip(",")
    assert given(MODEL=model).model == expected


@pytest.mark.parametrize("model", ["auto,turbo", "turbo,auto", "", "a:b:c", "t b"])
def test_other_models_are_refused(given: Callable[..., Settings], model: str) -> None:
    [line] = complaints(given, MODEL=model)
    assert line.startswith("MODEL: must be auto, or ")


@pytest.mark.parametrize("name", ["../t3.safetensors", "t3", "", "a/b.pt"])
def test_file_of_multilingual_is_a_name(given: Callable[..., Settings], name: str) -> None:
    assert complaints(given, MULTILINGUAL_T3_FILE=name)


@pytest.mark.parametrize(("given_as", "slots"), [("auto", "auto"), (" AUTO ", "auto"), ("8", 8)])
def test_slots_are_a_number_or_auto(
    given: Callable[..., Settings], given_as: str, slots: int | str
) -> None:
    assert given(CONCURRENT_REQUESTS_PER_WORKER=given_as).concurrent_requests_per_worker == slots


def test_models_own_defaults_apply_where_the_environment_sets_nothing(
    given: Callable[..., Settings],
) -> None:
    own = {"top_p": 0.95, "synthesis_temperature": 0.7, "voice_exaggeration_factor": 0.0}
    params = given(TTS_SYNTHESIS_TEMPERATURE="0.9").synthesis_params(own)
    assert (params.top_p, params.synthesis_temperature) == (0.95, 0.9)
    assert (params.voice_exaggeration_factor, params.min_p) == (0, 0.05)


# --- the environment of others --------------------------------------------------------------------


def test_child_environment_has_no_api_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", "hush")
    monkeypatch.setenv("HF_HOME", "/cache")
    child = child_environment(OMP_NUM_THREADS="2")
    assert "hush" not in child.values()
    assert child["HF_HOME"] == "/cache"
    assert child["OMP_NUM_THREADS"] == "2"


def test_an_operators_choice_of_gpus_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_cuda_devices() is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert visible_cuda_devices() == "0,1"


def test_the_cores_are_those_of_this_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("app.core.cpu.CGROUP", tmp_path)
    assert cpu_count() == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("50000 100000", 1), ("200000 100000", 2), ("250000 100000", 3), ("900000 100000", 8)],
)
def test_cpu_count_respects_a_containers_quota(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quota: str, cores: int
) -> None:
    monkeypatch.setattr("app.core.cpu.CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert cpu_count() == cores


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, math.inf),
        ({"cpu.max": "max 100000\n"}, math.inf),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": ""}, math.inf),
        ({"cpu.max": "1 0"}, math.inf),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, math.inf),
        ({"cpu/cpu.cfs_quota_us": "20000\n", "cpu/cpu.cfs_period_us": "10000\n"}, 2),
        ({"cpu/cpu.cfs_quota_us": "20000\n"}, math.inf),
    ],
)
def test_a_quota_is_read_in_either_version_of_control_groups(
    tmp_path: Path, files: dict[str, str], quota: float
) -> None:
    (tmp_path / "cpu").mkdir()
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    assert cpu_quota(tmp_path) == quota


# --- what is written about them -------------------------------------------------------------------


def env_example() -> str:
    """What `.env.example` must be: every setting, explained, at its default."""
    lines = [
        "# Copy this file to .env and choose a key. What is commented out is at its default.",
    ]
    for name, field in Settings.model_fields.items():
        if name in GROUPS:
            lines += ["", "", f"# --- {GROUPS[name]} ---"]
        description = str(field.description).replace("**", "")
        wrapped = textwrap.wrap(description, 98, break_on_hyphens=False)
        lines += ["", *(f"# {line}" for line in wrapped)]
        if name == "api_key":
            lines.append("API_KEY=")
        else:
            lines.append(f"# {name.upper()}={shown(field.default)}")
    return "\n".join(lines) + "\n"


def test_the_example_file_explains_every_setting() -> None:
    assert (ROOT / ".env.example").read_text() == env_example()


def test_the_example_file_changes_nothing_but_asks_for_a_key(folder: Path) -> None:
    (folder / ".env").write_text((ROOT / ".env.example").read_text())
    assert load_settings(api_key_required=False) == Settings.model_construct()
    with pytest.raises(StartupError, match="API_KEY"):
        load_settings(api_key_required=True)


def test_the_example_file_holds_the_real_defaults(folder: Path) -> None:
    """With every comment sign removed, the file sets the default values."""
    example = (ROOT / ".env.example").read_text()
    settings = re.sub(r"^# (?=[A-Z_]+=)", "", example, flags=re.MULTILINE)
    (folder / ".env").write_text(settings)
    assert load_settings(api_key_required=False) == Settings.model_construct()
