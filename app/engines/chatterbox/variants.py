"""The Chatterbox models as data: all differences between the variants."""

from dataclasses import dataclass
from typing import Literal

from app.model_files.manifest import ENGLISH as ENGLISH_MANIFEST
from app.model_files.manifest import Manifest

Sampler = Literal["cfg", "repetition_penalty", "temperature", "min_p", "top_p"]


@dataclass(frozen=True)
class T3Spec:
    """The text-to-speech-token model.

    `rows_per_sequence`: batch rows of one sequence; 2 with classifier-free guidance (conditional,
    unconditional), 1 without. `samplers`: applied to the logits in this order. `text_delimiters`:
    the text stands between a start-of-text and an end-of-text token. `start_tokens`: how often the
    start-of-speech token precedes the speech. `learned_positions`: text and speech have learned
    position embeddings. `max_tokens`: speech tokens of one text chunk, at most. `silence_tail`:
    speech tokens appended after the last one.
    """

    backbone: Literal["llama"]
    text_vocab_size: int
    rows_per_sequence: int
    samplers: tuple[Sampler, ...]
    text_delimiters: bool
    start_tokens: int
    learned_positions: bool
    max_tokens: int
    silence_tail: tuple[int, ...] = ()


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

    solver: Literal["euler_cfg"]
    steps: int


@dataclass(frozen=True)
class FrontendSpec:
    """The frontend, by its name in the engine's `FRONTENDS`, and its limits on the speech tokens.

    A chunk of n characters takes about `tokens_per_char`·n speech tokens; it is cut off after
    `runaway_factor` times as many and `spare_tokens`.
    """

    kind: Literal["english"]
    tokens_per_char: float
    runaway_factor: float
    spare_tokens: int


@dataclass(frozen=True)
class ModelSpec:
    """One model of the family."""

    name: str
    title: str
    manifest: Manifest
    t3: T3Spec
    prompt: PromptSpec
    flow: FlowSpec
    frontend: FrontendSpec


ENGLISH = ModelSpec(
    name="chatterbox",
    title="Chatterbox",
    manifest=ENGLISH_MANIFEST,
    t3=T3Spec(
        backbone="llama",
        text_vocab_size=704,
        rows_per_sequence=2,
        samplers=("cfg", "repetition_penalty", "temperature", "min_p", "top_p"),
        text_delimiters=True,
        start_tokens=2,
        learned_positions=True,
        max_tokens=1000,
    ),
    prompt=PromptSpec(t3_s=6, t3_tokens=150, s3gen_s=10, min_audio_s=1, loudness_lufs=None),
    flow=FlowSpec(solver="euler_cfg", steps=10),
    frontend=FrontendSpec(kind="english", tokens_per_char=1.9, runaway_factor=4, spare_tokens=25),
)

UNSUPPORTED_TEXT_VOCABULARIES = {2454: "Chatterbox Multilingual", 50_276: "Chatterbox Turbo"}
"""Sizes of T3's text vocabulary in variants that cannot be loaded yet."""
