"""The Chatterbox models as data: everything that tells one variant from another.

T3, S3Gen, conditioning, the loader and the frontend read a `ModelSpec` and contain no test for a
particular variant. Facts and defaults are those of the package's own class for each model
(`chatterbox.tts.ChatterboxTTS` for ENGLISH).
"""

from dataclasses import dataclass
from typing import Literal

Sampler = Literal["cfg", "repetition_penalty", "temperature", "min_p", "top_k", "top_p"]


@dataclass(frozen=True)
class T3Spec:
    """The text-to-speech-token model.

    `rows_per_sequence`: batch rows of one sequence; 2 with classifier-free guidance (conditional,
    unconditional), 1 without. `samplers`: applied to the logits in this order. `start_tokens`: how
    often the start-of-speech token precedes the speech. `learned_positions`: text and speech have
    learned position embeddings. `max_tokens`: per text chunk. `silence_tail`: tokens appended
    after the last one.
    """

    file: str
    backbone: Literal["llama"]
    rows_per_sequence: int
    samplers: tuple[Sampler, ...]
    start_tokens: int
    learned_positions: bool
    max_tokens: int
    silence_tail: tuple[int, ...] = ()


@dataclass(frozen=True)
class PromptSpec:
    """What is taken of a voice's audio; lengths in seconds, `loudness_lufs` None: left as it is."""

    t3_prompt_s: float
    s3gen_prompt_s: float
    min_audio_s: float
    loudness_lufs: float | None
    emotion: bool


@dataclass(frozen=True)
class FlowSpec:
    """S3Gen's flow: Euler steps over time 0 to 1, guided or (mean flow) not."""

    file: str
    steps: int
    schedule: Literal["cosine", "linear"]
    cfg: bool


@dataclass(frozen=True)
class FrontendSpec:
    """How text becomes T3's tokens. `tokens_per_char`: speech tokens that a character usually
    takes; a chunk that takes `runaway_factor` times as many is cut off.
    """

    tokenizer_file: str
    tokens_per_char: float
    runaway_factor: float


@dataclass(frozen=True)
class ModelSpec:
    """One model of the family. `languages`: ISO 639-1 codes."""

    name: str
    title: str
    languages: tuple[str, ...]
    t3: T3Spec
    flow: FlowSpec
    prompt: PromptSpec
    frontend: FrontendSpec


ENGLISH = ModelSpec(
    name="chatterbox",
    title="Chatterbox",
    languages=("en",),
    t3=T3Spec(
        file="t3_cfg.safetensors",
        backbone="llama",
        rows_per_sequence=2,
        samplers=("cfg", "repetition_penalty", "temperature", "min_p", "top_p"),
        start_tokens=2,
        learned_positions=True,
        max_tokens=1000,
    ),
    flow=FlowSpec(file="s3gen.safetensors", steps=10, schedule="cosine", cfg=True),
    prompt=PromptSpec(
        t3_prompt_s=6, s3gen_prompt_s=10, min_audio_s=1, loudness_lufs=None, emotion=True
    ),
    frontend=FrontendSpec(tokenizer_file="tokenizer.json", tokens_per_char=1.9, runaway_factor=4),
)

VARIANTS = {spec.name: spec for spec in (ENGLISH,)}
