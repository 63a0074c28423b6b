"""The synthesis parameters: bounds, descriptions, other names and defaults of each, defined once.

Request models (`speech.options`) and the settings `TTS_…` derive from `SynthesisParams`.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_type_hints

import msgspec
from pydantic import Field


@dataclass(frozen=True)
class ParameterInfo:
    """The description of a parameter in the API's documentation, and its other names there."""

    description: str
    aliases: tuple[str, ...] = ()


MAX_SEED = 2**32 - 1

GuidanceWeight = Annotated[
    float,
    Field(ge=0, le=3),
    ParameterInfo(
        "Classifier-free guidance: higher values follow the text more closely, but can sound less "
        "natural.",
        ("cfg_weight",),
    ),
]
Temperature = Annotated[
    float,
    Field(ge=0.05, le=5),
    ParameterInfo(
        "Randomness: higher values are more varied, lower ones more even.", ("temperature",)
    ),
]
Exaggeration = Annotated[
    float, Field(ge=0, le=2), ParameterInfo("Expressiveness of the voice.", ("exaggeration",))
]
TextChunkSize = Annotated[
    int,
    Field(ge=20, le=500),
    ParameterInfo(
        "Characters per text chunk, at most. Smaller values can reduce latency but may affect "
        "prosody."
    ),
]
SliceTokens = Annotated[
    int,
    Field(ge=5, le=500),
    ParameterInfo("Speech tokens (40 ms each) per slice of audio: the grain of the stream."),
]
LeadingTrim = Annotated[
    int, Field(ge=0, le=5000), ParameterInfo("Trimmed from the start of each text chunk's audio.")
]
TrailingTrim = Annotated[
    int, Field(ge=0, le=5000), ParameterInfo("Trimmed from the end of each text chunk's audio.")
]
OverlapMethod = Annotated[
    Literal["full", "zero"],
    ParameterInfo(
        "`full`: seamless; `zero`: everything is simply concatenated.", ("chunk_overlap_strategy",)
    ),
]
CrossfadeMilliseconds = Annotated[
    int,
    Field(ge=0, le=500),
    ParameterInfo("Length of the crossfade between text chunks, and between Chatterbox's slices."),
]
Seed = Annotated[
    int, Field(ge=0, le=MAX_SEED), ParameterInfo("The same seed gives the same audio (on a CPU).")
]
RepetitionPenalty = Annotated[
    float, Field(ge=1, le=3), ParameterInfo("Discourages repeated speech tokens.")
]
MinP = Annotated[
    float,
    Field(ge=0, le=1),
    ParameterInfo("Drops tokens less likely than this share of the likeliest."),
]
TopP = Annotated[
    float,
    Field(gt=0, le=1),
    ParameterInfo("Keeps the likeliest tokens that make up this probability."),
]
TopK = Annotated[
    int,
    Field(ge=1, le=6563),
    ParameterInfo("Keeps only so many of the likeliest tokens. For Turbo and Nano."),
]


Speed = Annotated[
    float,
    Field(ge=0.25, le=4),
    ParameterInfo("How many times as fast; the pitch stays."),
]
"""Of the audio, after synthesis: no engine knows it."""

LanguageTag = Annotated[
    str,
    ParameterInfo("The language of the text, by its ISO 639-1 code; a region may follow: `pt-BR`."),
]

Languages = dict[str, str | None]
"""A model's languages by code; a string says why one of them is not offered."""

ENGLISH_ONLY: Languages = {"en": None}


class SynthesisParams(msgspec.Struct, frozen=True):
    """How a text is to be spoken; one value from the HTTP request to the engine.

    Lengths are in characters (`text_processing_chunk_size`), in speech tokens of 40 ms
    (`audio_tokens_per_slice`) or in milliseconds, as their names say. A request without a `seed`
    gets a random one when it is accepted, so that a retry gives the same speech. In a job,
    `language` is a code that the model speaks.
    """

    cfg_guidance_weight: GuidanceWeight = 0.5
    synthesis_temperature: Temperature = 0.8
    voice_exaggeration_factor: Exaggeration = 0.5
    text_processing_chunk_size: TextChunkSize = 150
    audio_tokens_per_slice: SliceTokens = 35
    remove_leading_milliseconds: LeadingTrim = 0
    remove_trailing_milliseconds: TrailingTrim = 0
    chunk_overlap_method: OverlapMethod = "full"
    crossfade_duration_milliseconds: CrossfadeMilliseconds = 30
    seed: Seed = 0
    repetition_penalty: RepetitionPenalty = 1.2
    min_p: MinP = 0.05
    top_p: TopP = 1.0
    top_k: TopK = 1000
    language: LanguageTag = "en"


DEFAULTS = SynthesisParams()

PARAMETERS: dict[str, Any] = get_type_hints(SynthesisParams, include_extras=True)
"""The annotated type of each parameter, by name."""


ALL_PARAMETERS: dict[str, Any] = PARAMETERS | {"speed": Speed}
"""Those, and what requests set beside them."""


def info_of(name: str) -> ParameterInfo:
    """The documentation of a parameter."""
    metadata = ALL_PARAMETERS[name].__metadata__
    return next(each for each in metadata if isinstance(each, ParameterInfo))
