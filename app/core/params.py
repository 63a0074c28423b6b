"""The synthesis parameters, each with its bounds: the same in a request as in the settings."""

from typing import Annotated, Literal

import msgspec
from pydantic import Field

OverlapMethod = Literal["full", "zero"]
GuidanceWeight = Annotated[float, Field(ge=0, le=3)]
Temperature = Annotated[float, Field(ge=0.05, le=5)]
Exaggeration = Annotated[float, Field(ge=0, le=2)]
TextChunkSize = Annotated[int, Field(ge=20, le=500)]  # in characters
SliceTokens = Annotated[int, Field(ge=5, le=500)]
TrimMilliseconds = Annotated[int, Field(ge=0, le=5000)]
CrossfadeMilliseconds = Annotated[int, Field(ge=0, le=500)]


class SynthesisParams(msgspec.Struct, frozen=True):
    """How a text is to be spoken; one value from the HTTP request to the engine.

    Lengths are in characters (`text_processing_chunk_size`), in speech tokens of 40 ms
    (`audio_tokens_per_slice`) or in milliseconds, as their names say. A request without a `seed`
    gets a random one when it is accepted, so a retry says the same.
    """

    cfg_guidance_weight: float = 0.5
    synthesis_temperature: float = 0.8
    voice_exaggeration_factor: float = 0.5
    text_processing_chunk_size: int = 150
    audio_tokens_per_slice: int = 35
    remove_leading_milliseconds: int = 0
    remove_trailing_milliseconds: int = 0
    chunk_overlap_method: OverlapMethod = "full"
    crossfade_duration_milliseconds: int = 30
    seed: int = 0
    repetition_penalty: float = 1.2
    min_p: float = 0.05
    top_p: float = 1.0
