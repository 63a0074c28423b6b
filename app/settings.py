"""The settings: one `Settings` value, read once from the environment and `.env`.

Nothing else reads the environment, but `core.process_env`. A variable has the name of its field in
capitals; `.env.example` and the tables of settings show the descriptions and defaults.
"""

import difflib
import os
import re
import secrets
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec.structs import replace
from pydantic import (
    BeforeValidator,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from app.core.engine_config import (
    ChatterboxOptions,
    EngineConfig,
    ModelFiles,
    QueueSizes,
    S3GenDtype,
    T3Dtype,
)
from app.core.errors import StartupError
from app.core.params import (
    DEFAULTS,
    PARAMETERS,
    CrossfadeMilliseconds,
    Exaggeration,
    GuidanceWeight,
    LeadingTrim,
    OverlapMethod,
    SliceTokens,
    SynthesisParams,
    Temperature,
    TextChunkSize,
    TrailingTrim,
)
from app.core.unicode import nfc
from app.core.validation import describe_error

ENV_FILE = Path(".env")
SHORT_NAME = 5
SAFE_KEY_LENGTH = 16
MAX_SLOTS = 256
LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Hosts that only this machine can connect to."""

FIRST_SLICE = 20
SLICE_GROWTH = {"cpu": 2.0, "cuda": 1.0}
"""Longer slices need fewer solves, which pays on a CPU; on a GPU they only delay the audio."""

_LINE = re.compile(r"^\s*(?:export\s+)?(?P<name>[^#=\s]+)\s*=(?P<value>.*)$")
_QUOTED = re.compile(r"""^(?P<quote>['"])(?P<value>.*?)\1\s*(?P<comment>#.*)?$""")
_MODEL = r"(?!auto\b)([A-Za-z][A-Za-z0-9-]*|[A-Za-z_][\w.]*:[A-Za-z_]\w*)"
_MODELS = re.compile(rf"auto|{_MODEL}(,{_MODEL})*")
_FILE_NAME = r"^[A-Za-z0-9][\w.-]*\.(safetensors|pt)$"
_LANGUAGE = re.compile(r"^[A-Za-z]{2,3}([-_][A-Za-z0-9]+)*\Z")
_COMMENT = re.compile(r"\s#.*$")


_SETTING_OF = {
    "chunk_overlap_method": "tts_chunk_overlap_strategy",
    "language": "default_language",
}
"""The settings whose names are not `tts_` and the name of their parameter."""


NO_DEFAULTS: Mapping[str, Any] = {}

Duration = Annotated[float, Field(gt=0, le=86_400)]
QueueSize = Annotated[int, Field(ge=1, le=1000)]


def _slots(value: Any) -> Any:
    text = str(value).strip().lower()
    if text == "auto":
        return text
    if text.isdecimal() and 1 <= int(text) <= MAX_SLOTS:
        return int(text)
    raise PydanticCustomError("slots", "must be a whole number from 1 to 256, or auto")


Slots = Annotated[int | Literal["auto"], BeforeValidator(_slots)]


class Settings(BaseSettings):
    """Raises `ValidationError` for values out of range."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, protected_namespaces=())

    _key_was_made: bool = PrivateAttr(False)

    # Core
    api_key: SecretStr = Field(
        SecretStr(""),
        description="**(Required)** The secret key that clients must send. Without one, a server "
        "that only this machine reaches (`HOST=127.0.0.1`) makes one at each start and prints it.",
    )
    host: str = Field(
        "0.0.0.0",  # noqa: S104
        description="The address to listen on; `::` for all of IPv6 and of IPv4.",
    )
    port: int = Field(8000, ge=1, le=65535, description="The port to listen on.")
    port_health: int | None = Field(
        None, ge=1, le=65535, description="A second port that answers `/ping` (RunPod)."
    )
    debug: bool = Field(False, description="Debug logging and FastAPI's debug pages.")
    log_level: Annotated[
        Literal["CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG"],
        BeforeValidator(lambda value: str(value).upper()),
    ] = Field("INFO", description="The logging level (e.g. `INFO`, `DEBUG`).")
    public_metrics: bool = Field(False, description="`/metrics` may be read without the key.")
    workers_per_device: int = Field(
        1,
        ge=1,
        le=64,
        description="Worker processes for each GPU, or for the CPU where there is no GPU.",
    )
    concurrent_requests_per_worker: Slots = Field(
        1,
        description="Requests that one worker runs at a time (its slots), up to 256; `auto`: as "
        "many as a GPU's free memory holds and its speed serves without gaps, on a CPU one. There "
        "can be more clients than slots: while others wait, a job far ahead of its client gives "
        "its slot up.",
    )
    voices_dir: Path = Field(Path("voices/"), description="The folder for uploaded voices.")
    preloaded_voices_dir: Path = Field(
        Path("preloaded-voices/"), description="The folder of preloaded voices."
    )
    voice_cache_mb: int = Field(
        10_240,
        ge=1,
        le=1_048_576,
        description="Disk space for decoded voices, in MB: up to 11 for each, in the user's cache "
        "folder (`/cache` in Docker). Further voices are refused with 507.",
    )
    model_path: Path = Field(
        Path("models"),
        description="The folder of the models' weights: `turbo/`, `nano/`, `multilingual/`, and "
        "`chatterbox/` or the folder itself.",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        ("*",), description="Comma-separated list of allowed origins."
    )
    voice_aliases: Annotated[dict[str, str], NoDecode] = Field(
        {},
        description="Other names for voices on `/v1`, OpenAI's names included (e.g. "
        "`alloy=austen.wav,nova=my.wav`).",
    )
    public_voice_list: bool = Field(
        False,
        description="`/v1/audio/voices`, `/v1/audio/models` and `/v1/models` may be read without "
        "the key (Open WebUI sends none there).",
    )

    # Engine
    model: str = Field(
        "auto",
        description="`chatterbox` (the English original), `turbo`, `nano`, `multilingual`, "
        "`preview` (the built-in voice) or `module:Class` of an engine of your own; several, the "
        "default first, with commas between them; or `auto`: all whose weights are in "
        "`MODEL_PATH`, else preview. `auto` prefers `turbo`, on a CPU `nano`.",
    )
    multilingual_t3_file: str = Field(
        "t3_mtl23ls_v3.safetensors",
        pattern=_FILE_NAME,
        description="T3 of `multilingual`, in its folder: version 3, "
        "`t3_mtl23ls_v2.safetensors`, or that of a single-language pack, with which it speaks this "
        "language only.",
    )
    multilingual_s3gen_file: str = Field(
        "s3gen.pt",
        pattern=_FILE_NAME,
        description="S3Gen of `multilingual`: that of its loader upstream, or `s3gen_v3.pt`, with "
        "which the single-language packs are published.",
    )
    default_language: str = Field(
        DEFAULTS.language,
        description="The language (`en`, `de`, `pt-BR`, …) of texts whose request has none, and "
        "whose voice has none in its name that the model speaks. A model that does not speak it "
        "needs `language` in each request.",
    )
    watermark: bool = Field(
        True,
        description="Mark Chatterbox's speech as synthetic with an inaudible watermark (Perth).",
    )
    torch_compile: Annotated[
        Literal["auto", "true", "false"], BeforeValidator(lambda value: str(value).lower())
    ] = Field(
        "auto",
        description="Compile Chatterbox's hot path with `torch.compile` while a worker starts: "
        "`true`, `false`, or `auto`, on GPUs only (on a CPU it takes minutes and gains little).",
    )
    tts_voice_exaggeration_factor: Exaggeration = Field(
        DEFAULTS.voice_exaggeration_factor,
        description="Controls the expressiveness of the voice.",
    )
    tts_cfg_guidance_weight: GuidanceWeight = Field(
        DEFAULTS.cfg_guidance_weight,
        description="How strongly the model adheres to the text prompt.",
    )
    tts_synthesis_temperature: Temperature = Field(
        DEFAULTS.synthesis_temperature,
        description="Controls the randomness of the output.",
    )
    tts_text_processing_chunk_size: TextChunkSize = Field(
        DEFAULTS.text_processing_chunk_size,
        description="Max characters per text chunk. Smaller values can reduce latency.",
    )
    tts_strip_markup: bool = Field(
        True,
        description="Markdown, HTML and SSML are not read out: marks and tags are dropped, "
        "entities decoded, and `<break>` is a pause. `false`: they are read as text.",
    )
    tts_audio_tokens_per_slice: SliceTokens = Field(
        DEFAULTS.audio_tokens_per_slice,
        description="Number of audio tokens per slice during streaming. Affects granularity.",
    )
    tts_first_slice_tokens: int = Field(
        FIRST_SLICE,
        ge=0,
        le=500,
        description="Tokens of the very first slice (Chatterbox). Fewer give an earlier first "
        "sound, but a slice of less than 16 produces no audio before the second. `0`: as many as "
        "in any other slice.",
    )
    tts_slice_growth: float | None = Field(
        None,
        ge=1,
        le=8,
        description="The factor by which each slice is longer than the one before (Chatterbox). "
        "Fewer, longer slices take less time in total, but the client waits longer for the next "
        "one. `1`: all of one length. The default is 2 on a CPU and 1 on a GPU.",
    )
    tts_voice_prompt_seconds: int = Field(
        10,
        ge=1,
        le=10,
        description="Seconds of the voice, from its start, that S3Gen uses as its prompt. Less "
        "than the usual `10` is faster and resembles the voice less.",
    )
    tts_s3gen: Literal["own", "meanflow"] = Field(
        "own",
        description="S3Gen of `chatterbox` and `multilingual`: their `own`, or `meanflow`, Turbo's "
        "`s3gen_meanflow.safetensors`, which is several times faster. It is an approximation: the "
        "models were not published with it, and speech for a seed differs. With this setting, "
        "`models download` fetches its file into their folders.",
    )
    tts_s3gen_context_tokens: int = Field(
        0,
        ge=0,
        le=1000,
        description="Number of preceding tokens that S3Gen processes together with a slice. `0`: "
        "all of the text chunk, otherwise at least 12. A few dozen make late slices of long chunks "
        "as fast as early ones; S3Gen was trained with all of them.",
    )
    tts_t3_dtype: T3Dtype = Field(
        "auto",
        description="Weights of T3: `float32`, `bfloat16` (half the memory), or `int8` (a quarter, "
        "and faster; CPUs only). The latter two are less exact and give other speech for a seed. "
        "`auto`: `bfloat16` on a GPU that computes in it, else `float32`.",
    )
    tts_s3gen_dtype: S3GenDtype = Field(
        "auto",
        description="Matrix products in S3Gen's largest part: `float32` or `bfloat16` (faster on a "
        "GPU, less exact). `auto`: `bfloat16` on a GPU that computes in it, else `float32`.",
    )
    tts_remove_leading_milliseconds: LeadingTrim = Field(
        DEFAULTS.remove_leading_milliseconds,
        description="Milliseconds to trim from the start of the audio.",
    )
    tts_remove_trailing_milliseconds: TrailingTrim = Field(
        DEFAULTS.remove_trailing_milliseconds,
        description="Milliseconds to trim from the end of the audio.",
    )
    tts_chunk_overlap_strategy: OverlapMethod = Field(
        DEFAULTS.chunk_overlap_method,
        description='Strategy for overlapping audio chunks: `"full"` or `"zero"`.',
    )
    tts_crossfade_duration_milliseconds: CrossfadeMilliseconds = Field(
        DEFAULTS.crossfade_duration_milliseconds,
        description="Duration of the crossfade between audio chunks.",
    )
    tts_speech_token_queue_max_size: QueueSize = Field(
        2,
        description="Slices that may wait between T3 and S3Gen. Smaller values (`~2`) reduce the "
        "initial latency.",
    )
    tts_pcm_chunk_queue_max_size: QueueSize = Field(
        3,
        description="Pieces of audio that may wait after S3Gen. Smaller values (`~3`) reduce "
        "latency but increase the risk of stutter.",
    )

    # Limits
    max_text_length: int = Field(20_000, ge=1, le=1_000_000, description="Characters per request.")
    max_upload_mb: int = Field(25, ge=1, le=1024, description="Largest voice file, in MB.")
    max_connections: int = Field(
        4096, ge=1, le=49_152, description="Open connections; further ones are answered 503."
    )
    max_connections_per_address: int = Field(
        0,
        ge=0,
        le=49_152,
        description="Open connections of one IPv4 address or IPv6 network (/64). `0`: any number, "
        "as is needed behind a proxy.",
    )
    keep_alive_seconds: int = Field(
        75,
        ge=1,
        le=3600,
        description="Time for which an idle connection stays open. A proxy's own should be "
        "shorter, or it may send a request while the connection closes.",
    )
    max_queued_requests: int = Field(
        100, ge=0, le=100_000, description="Requests that may wait; further ones are answered 429."
    )
    queue_timeout_seconds: Duration = Field(
        60, description="Longest wait in the queue; after it, 503 `queue_timeout`."
    )
    max_ahead_seconds: float = Field(
        60,
        ge=0.1,
        le=3600,
        description="Seconds of audio that a job may be ahead of its client before it pauses.",
    )
    client_stall_seconds: Duration = Field(
        600,
        description="A client that leaves audio unread for so long, or takes it at a hundredth of "
        "its speed, is cut off, also if its job is done.",
    )
    worker_stall_seconds: Duration = Field(
        120,
        description="A worker with a job or a voice that makes no progress for so long is killed "
        "and replaced.",
    )
    worker_start_seconds: Duration = Field(
        900,
        description="A worker that is not ready, and has made no progress for so long, is "
        "replaced.",
    )
    model_idle_seconds: float = Field(
        0,
        ge=0,
        le=604_800,
        description="A model that had no request for so long is unloaded: its workers leave the "
        "device, and come back for the next request, which waits for them. `0`: never.",
    )
    shutdown_grace_seconds: float = Field(
        30,
        ge=0,
        le=86_400,
        description="Time for running streams to finish after SIGTERM (Docker's own limit is 10 "
        "unless `--stop-timeout` sets another).",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, _Environment(settings_cls), _EnvFile(settings_cls)

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(
                origin.strip().rstrip("/") for origin in value.split(",") if origin.strip()
            )
        return value

    @field_validator("voice_aliases", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        pairs = [pair.partition("=") for pair in nfc(value).split(",") if pair.strip()]
        aliases = {name.strip(): voice.strip() for name, _, voice in pairs}
        if len(aliases) < len(pairs) or not all(map(all, aliases.items())):
            raise PydanticCustomError(
                "voice_aliases", "must be name=voice, name=voice, …, each name once"
            )
        return aliases

    @field_validator("port_health", "tts_slice_growth", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: Any) -> Any:
        return None if value == "" else value

    @field_validator("voices_dir", "preloaded_voices_dir", "model_path", mode="before")
    @classmethod
    def _names_a_folder(cls, value: Any) -> Any:
        if value == "":
            raise PydanticCustomError("folder", "must name a folder (. is the working folder)")
        return value

    @field_validator("model")
    @classmethod
    def _names_models(cls, value: str) -> str:
        names = [name.strip() for name in value.split(",") if name.strip()]
        value = ",".join(name if ":" in name else name.lower() for name in names)
        if not _MODELS.fullmatch(value):
            raise PydanticCustomError(
                "model",
                "must be auto, or a model such as turbo or module:Class of your own, or several of "
                "these with commas between them",
            )
        return value

    @field_validator("default_language")
    @classmethod
    def _is_language(cls, value: str) -> str:
        if not _LANGUAGE.match(value):
            raise PydanticCustomError("language", "must be a language code such as en, de or pt-BR")
        return value

    @field_validator("port_health")
    @classmethod
    def _ports_differ(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and value == info.data.get("port"):
            raise PydanticCustomError("port_health", "must be another port than PORT")
        return value

    def synthesis_params(self, defaults: Mapping[str, Any] = NO_DEFAULTS) -> SynthesisParams:
        """The default parameters of a request, with a random seed.

        `defaults`: a model's own, which apply where the environment sets nothing.
        """
        params = self._params
        key = tuple(defaults.items())
        if key not in params:
            params[key] = self._without_seed(defaults)
        return replace(params[key], seed=secrets.randbits(32))

    @cached_property
    def _params(self) -> dict[tuple[tuple[str, Any], ...], SynthesisParams]:
        return {}

    def _without_seed(self, defaults: Mapping[str, Any]) -> SynthesisParams:
        settings = {name: _SETTING_OF.get(name, f"tts_{name}") for name in PARAMETERS}
        fields = type(self).model_fields
        values = {
            name: getattr(self, setting) for name, setting in settings.items() if setting in fields
        }
        chosen = {name for name, setting in settings.items() if setting in self.model_fields_set}
        values |= {name: value for name, value in defaults.items() if name not in chosen}
        return SynthesisParams(**values)

    def engine_config(self, device_kind: str, threads: int, slots: int) -> EngineConfig:
        """The configuration of an engine on a device of this kind, "cuda" or "cpu"."""
        return EngineConfig(
            device=device_kind,
            threads=threads,
            model_path=str(self.model_path),
            slots=slots,
            watermark=self.watermark,
            torch_compile=self.should_compile(device_kind),
            tuning=self.tuning(device_kind),
        )

    def model_files(self, model: str) -> ModelFiles:
        """The files of a Chatterbox model; `MULTILINGUAL_T3_FILE` is T3's of `multilingual`."""
        t3, s3gen = (getattr(self, f"{model}_{part}_file", "") for part in ("t3", "s3gen"))
        return ModelFiles(t3, s3gen, mean_flow=self.tts_s3gen == "meanflow")

    def queue_sizes(self) -> QueueSizes:
        return QueueSizes(
            slices=self.tts_speech_token_queue_max_size, audio=self.tts_pcm_chunk_queue_max_size
        )

    def tuning(self, device_kind: str) -> ChatterboxOptions:
        growth = self.tts_slice_growth
        return ChatterboxOptions(
            first_slice_tokens=self.tts_first_slice_tokens,
            slice_growth=SLICE_GROWTH[device_kind] if growth is None else growth,
            voice_prompt_seconds=self.tts_voice_prompt_seconds,
            t3_dtype=self.tts_t3_dtype,
            s3gen_dtype=self.tts_s3gen_dtype,
            s3gen_context_tokens=self.tts_s3gen_context_tokens,
        )

    def should_compile(self, device_kind: str) -> bool:
        return self.torch_compile == "true" or (
            self.torch_compile == "auto" and device_kind == "cuda"
        )

    @property
    def max_upload_bytes(self) -> int:
        return self.max_upload_mb * 1_048_576

    @property
    def key(self) -> str:
        """The API key as clients send it; empty if there is none."""
        return self.api_key.get_secret_value().strip()

    @property
    def key_was_made(self) -> bool:
        """Whether the key is a random one, generated at this start."""
        return self._key_was_made

    @property
    def effective_log_level(self) -> str:
        return "DEBUG" if self.debug else self.log_level


class _Environment(EnvSettingsSource):
    """Strips quotes and comments, which `docker run --env-file` passes through verbatim."""

    place = "the environment"

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        value, name, is_complex = super().get_field_value(field, field_name)
        if field_name == "api_key" and value:
            _ensure_whole(value.strip(), self.place)
        return _unquote(value), name, is_complex


class _EnvFile(_Environment):
    """`.env`, by the same rules. Pydantic's own source would expand `$` and `\\`."""

    place = ENV_FILE.name

    def _load_env_vars(self) -> Mapping[str, str | None]:
        readable = ENV_FILE.is_file() or ENV_FILE.is_fifo()  # password managers offer a pipe
        lines = _read_env_file(ENV_FILE).items() if readable else ()
        values = {name.lower(): value for name, value in lines}
        key = values.get("api_key", "").strip()
        if key[:1] in ("'", '"') and key.count(key[0]) == 1:  # several lines, perhaps
            raise StartupError(
                f"API_KEY in {self.place}: the quote at its start is not closed at its end"
            )
        return values


def _read_env_file(path: Path) -> dict[str, str]:
    """Return the lines by name, unchanged after the `=`. Raises OSError, UnicodeError."""
    lines = path.read_text("utf-8-sig").split("\n")
    return {line["name"]: line["value"] for line in map(_LINE.match, lines) if line}


def _ensure_whole(key: str, place: str) -> None:
    """Raise `StartupError` if what would be removed from the key may be a part of it."""
    quoted = _QUOTED.match(key)
    if quoted:
        unsure = quoted["quote"] in (quoted["comment"] or "")
    else:
        unsure = bool(re.search(r"\S\s+#", key))
    if unsure:
        raise StartupError(
            f"API_KEY in {place}: what follows ' #' may be a comment or part of the key; put the "
            "key into quotes, or remove the comment"
        )
    if quoted and quoted["value"].strip() not in ("", quoted["value"]):
        raise StartupError(
            f"API_KEY in {place} begins or ends with a space, which no client can send"
        )


def load_settings(*, api_key_required: bool, **overrides: Any) -> Settings:
    """The settings of this process; `overrides`, by field name, have precedence.

    Raises `StartupError` with one line for each invalid variable.
    """
    try:
        settings = Settings(**overrides)
    except ValidationError as error:
        raise StartupError("\n".join(_messages(error))) from None
    except SettingsError as error:
        raise StartupError(str(error.__cause__)) from None
    except (OSError, UnicodeError) as error:
        raise StartupError(f"cannot read {ENV_FILE}: {error}") from None
    if api_key_required and not settings.key:
        if settings.host not in LOOPBACK:
            raise StartupError(
                "API_KEY is not set: choose a secret key, e.g. API_KEY=… in .env; with "
                "HOST=127.0.0.1, for this machine only, one is made"
            )
        return _with_made_key(settings)
    return settings


def _with_made_key(settings: Settings) -> Settings:
    made = settings.model_copy(update={"api_key": SecretStr(secrets.token_urlsafe(24))})
    made._key_was_made = True
    return made


def weak_key(settings: Settings) -> list[str]:
    """A warning about a key that can be guessed, if other machines can connect."""
    length = len(settings.key)
    if length >= SAFE_KEY_LENGTH or settings.host in LOOPBACK:
        return []
    return [
        f"API_KEY has {length} characters and may be guessed: use {SAFE_KEY_LENGTH} or more, or "
        "HOST=127.0.0.1 for this machine only"
    ]


def unknown_settings(env_file: Path = ENV_FILE) -> list[str]:
    """One warning for each name in `.env` that resembles a setting's, or begins with `TTS_`.

    Of the environment, which has many unrelated names, only those with this prefix are checked.
    """
    in_file = _read_env_file(env_file) if env_file.is_file() else {}
    prefixed = [name for name in os.environ if name.startswith("TTS_")]
    return [*_suggest(in_file, env_file.name), *_suggest(prefixed, "the environment")]


def unexpanded_settings(env_file: Path = ENV_FILE) -> list[str]:
    """One warning for each setting in `.env` with a `${…}`, unless single quotes mean it so."""
    in_file = _read_env_file(env_file) if env_file.is_file() else {}
    return [
        f"{name} in {env_file.name} is taken as it is written: ${{…}} is not replaced"
        for name, value in in_file.items()
        if name.lower() in Settings.model_fields
        and "${" in value
        and not value.lstrip().startswith("'")
    ]


def _suggest(names: Iterable[str], source: str) -> Iterable[str]:
    known = [field.upper() for field in Settings.model_fields]
    for name in names:
        if name.upper() in known:
            continue
        # Two swapped letters lower the similarity of a short name more than that of a long one.
        cutoff = 0.75 if len(name) <= SHORT_NAME else 0.85
        near = difflib.get_close_matches(name.upper(), known, n=1, cutoff=cutoff)
        if near:
            yield f"{name} in {source} is not a setting; did you mean {near[0]}?"
        elif name.startswith("TTS_"):
            yield f"{name} in {source} is not a setting"


def _unquote(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    quoted = _QUOTED.match(value.strip())
    return quoted["value"] if quoted else _COMMENT.sub("", value).strip()


def _messages(error: ValidationError) -> Iterable[str]:
    for detail in error.errors():
        name = str(detail["loc"][0]).upper() if detail["loc"] else "settings"
        shown = "" if name == "API_KEY" else f" (it is {detail['input']!r})"
        yield f"{name}: {describe_error(detail)}{shown}"
