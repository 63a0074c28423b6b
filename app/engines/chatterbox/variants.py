"""The Chatterbox models as data: all differences between the variants."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from app.core.engine_config import PUBLISHED_FILES, ModelFiles
from app.core.model import SlotNeeds
from app.model_files import manifest
from app.model_files.manifest import Manifest
from app.text.languages import LANGUAGES

Sampler = Literal["cfg", "repetition_penalty", "temperature", "min_p", "top_k", "top_p"]


@dataclass(frozen=True)
class T3Spec:
    """The text-to-speech-token model.

    `config`: fields of upstream's `T3Config` that differ from its defaults. `rows_per_sequence`:
    batch rows of one sequence; 2 with classifier-free guidance (conditional, unconditional), 1
    without. `samplers`: applied to the logits in this order. `text_delimiters`: the text stands
    between a start-of-text and an end-of-text token. `start_tokens`: how often the start-of-speech
    token precedes the speech. `forgets_start_token`: only the first speech token is penalised for
    repeating it. `learned_positions`: text and speech have learned position embeddings.
    `conditioning_tokens`: positions of a voice in the prompt, at most. `min_tokens`: speech tokens
    before a stop token may end the speech. `max_tokens`: speech tokens of one text chunk, at most.
    `silence_tail`: speech tokens appended after the last one. `end_trim_tokens`: speech tokens
    whose audio is cut from the end of a text chunk, but for its first token's.
    """

    backbone: Literal["llama", "gpt2"]
    text_vocab_size: int
    rows_per_sequence: int
    samplers: tuple[Sampler, ...]
    text_delimiters: bool
    start_tokens: int
    learned_positions: bool
    conditioning_tokens: int
    max_tokens: int
    min_tokens: int = 0
    forgets_start_token: bool = False
    silence_tail: tuple[int, ...] = ()
    end_trim_tokens: int = 0
    config: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PromptSpec:
    """Requirements of T3 and S3Gen for a voice's audio.

    `t3_tokens`: speech tokens of the first `t3_s` seconds, at most. `loudness_lufs`: the audio's
    loudness is set to it; None leaves the audio as it is.
    """

    t3_s: int
    t3_tokens: int
    s3gen_s: int
    min_audio_s: float
    loudness_lufs: float | None


@dataclass(frozen=True)
class FlowSpec:
    """S3Gen's flow. `solver`: a name in `s3gen.solvers.SOLVERS`."""

    solver: Literal["euler_cfg", "mean_flow"]
    steps: int

    @property
    def is_mean_flow(self) -> bool:
        """Whether the estimator gets a step's end, too, which takes weights of its own."""
        return self.solver == "mean_flow"


@dataclass(frozen=True)
class FrontendSpec:
    """The frontend, by its name in the engine's `FRONTENDS`, and its limits on the speech tokens.

    A chunk is cut off after `runaway_factor` times as many speech tokens as its language usually
    takes, and `spare_tokens`. `language_tokens`: a token of its language precedes the text.
    """

    kind: Literal["english", "turbo", "multilingual"]
    runaway_factor: float
    spare_tokens: int
    language_tokens: bool = False


@dataclass(frozen=True)
class ModelSpec:
    """One model of the family.

    `id`: in the API; in the setting MODEL, too, where its `name` suffices.
    `languages`: ISO 639-1 codes. `tags`: sounds that it makes on command, as `[laugh]`.
    `defaults`: synthesis parameters that differ from those of `SynthesisParams`. `unused`: those
    that mean nothing to it. `foreign_voice_defaults`: those for a text in another language than the
    voice. `slot_needs`: see the manual's page on deployment for their sources.
    """

    id: str
    manifest: Manifest
    t3: T3Spec
    prompt: PromptSpec
    flow: FlowSpec
    frontend: FrontendSpec
    slot_needs: SlotNeeds
    languages: tuple[str, ...] = ("en",)
    tags: tuple[str, ...] = ()
    defaults: dict[str, Any] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    foreign_voice_defaults: dict[str, float] = field(default_factory=dict)
    converts_speech: bool = False

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def title(self) -> str:
        return self.manifest.title

    @property
    def needed_files(self) -> list[str]:
        """The files of its manifest without those that only some of its languages need."""
        optional = {name for code in self.languages for name in LANGUAGES[code].files}
        return [name for name in self.manifest.files if name not in optional]


ENGLISH = ModelSpec(
    id="chatterbox",
    manifest=manifest.ENGLISH,
    t3=T3Spec(
        backbone="llama",
        text_vocab_size=704,
        rows_per_sequence=2,
        samplers=("cfg", "repetition_penalty", "temperature", "min_p", "top_p"),
        text_delimiters=True,
        start_tokens=2,
        learned_positions=True,
        conditioning_tokens=34,
        max_tokens=1000,
    ),
    prompt=PromptSpec(t3_s=6, t3_tokens=150, s3gen_s=10, min_audio_s=1, loudness_lufs=None),
    flow=FlowSpec(solver="euler_cfg", steps=10),
    frontend=FrontendSpec(kind="english", runaway_factor=4, spare_tokens=25),
    slot_needs=SlotNeeds(worker_mb=2900, slot_mb=500, most=16),
    unused=("top_k",),
    converts_speech=True,
)

MULTILINGUAL = replace(
    ENGLISH,
    id="chatterbox-multilingual",
    manifest=manifest.MULTILINGUAL,
    t3=replace(ENGLISH.t3, text_vocab_size=2454, end_trim_tokens=1),
    frontend=replace(ENGLISH.frontend, kind="multilingual", language_tokens=True),
    languages=(
        *("ar", "da", "de", "el", "en", "es", "fi", "fr", "he", "hi", "it", "ja", "ko", "ms"),
        *("nl", "no", "pl", "pt", "ru", "sv", "sw", "tr", "zh"),
    ),
    foreign_voice_defaults={"cfg_guidance_weight": 0.0},  # upstream's advice against accents
)

TURBO = ModelSpec(
    id="chatterbox-turbo",
    manifest=manifest.TURBO,
    t3=T3Spec(
        backbone="gpt2",
        text_vocab_size=50_276,
        rows_per_sequence=1,
        samplers=("temperature", "top_k", "top_p", "repetition_penalty"),
        text_delimiters=False,
        start_tokens=1,
        learned_positions=False,
        conditioning_tokens=376,
        max_tokens=1001,
        min_tokens=1,
        forgets_start_token=True,
        silence_tail=(4299, 4299, 4299),
        config={
            "llama_config_name": "GPT2_medium",
            "speech_tokens_dict_size": 6563,
            "input_pos_emb": None,
            "speech_cond_prompt_len": 375,
            "use_perceiver_resampler": False,
            "emotion_adv": False,
        },
    ),
    prompt=PromptSpec(t3_s=15, t3_tokens=375, s3gen_s=10, min_audio_s=5, loudness_lufs=-27),
    flow=FlowSpec(solver="mean_flow", steps=2),
    frontend=replace(ENGLISH.frontend, kind="turbo"),
    slot_needs=SlotNeeds(worker_mb=2800, slot_mb=340, most=32),
    tags=(
        *("angry", "fear", "surprised", "whispering", "advertisement", "dramatic", "narration"),
        *("crying", "happy", "sarcastic", "clear throat", "sigh", "shush", "cough", "groan"),
        *("sniff", "gasp", "chuckle", "laugh"),
    ),
    defaults={"top_p": 0.95},
    unused=("cfg_guidance_weight", "voice_exaggeration_factor", "min_p"),
)

NANO = replace(
    TURBO,
    id="chatterbox-nano",
    manifest=manifest.NANO,
    slot_needs=SlotNeeds(worker_mb=2300, slot_mb=240, most=32),
    t3=replace(TURBO.t3, config=TURBO.t3.config | {"llama_config_name": "GPT2_small"}),
)

VARIANTS = {spec.name: spec for spec in (ENGLISH, TURBO, NANO, MULTILINGUAL)}
"""All models, by `ModelSpec.name`."""

PREFERENCE = {
    "cuda": (TURBO, MULTILINGUAL, ENGLISH, NANO),
    "cpu": (NANO, TURBO, ENGLISH, MULTILINGUAL),
}
"""The models in the order in which MODEL=auto takes them, by the kind of device.

A GPU runs all of them faster than speech: Turbo is the first to be heard and makes sounds on
command, Multilingual speaks the other languages. On a CPU only the smallest ones keep up.
"""


def spec_of(name: str, files: ModelFiles = PUBLISHED_FILES) -> ModelSpec:
    """The model of that name, with other files where `files` names some.

    With T3 of a single-language pack it speaks this language only. `files.mean_flow` is ignored for
    models that have a mean-flow S3Gen of their own.
    """
    spec = VARIANTS[name]
    t3, s3gen = files.t3 or spec.manifest.t3, files.s3gen or spec.manifest.s3gen
    spec = replace(spec, manifest=replace(spec.manifest, t3=t3, s3gen=s3gen))
    if language := spec.manifest.packs.get(t3):
        spec = _for_one_language(spec, language)
    if files.mean_flow and not spec.flow.is_mean_flow:
        other = spec.manifest.with_s3gen_of(TURBO.manifest)
        spec = replace(spec, flow=TURBO.flow, manifest=other)
    return spec


def _for_one_language(spec: ModelSpec, code: str) -> ModelSpec:
    """The model without other languages, and without the files that only they need."""
    unread = {name for other in spec.languages for name in LANGUAGES[other].files if other != code}
    return replace(
        spec,
        manifest=spec.manifest.without(unread),
        languages=(code,),
        defaults=spec.defaults | {"language": code},
    )
