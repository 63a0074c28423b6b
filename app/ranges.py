"""What the parameters of speech may be: the same in a request as in the settings."""

from typing import Annotated

from pydantic import Field

GuidanceWeight = Annotated[float, Field(ge=0, le=3)]
Temperature = Annotated[float, Field(ge=0.05, le=5)]
Exaggeration = Annotated[float, Field(ge=0, le=2)]
TextChunkSize = Annotated[int, Field(ge=20, le=500)]  # in characters
SliceTokens = Annotated[int, Field(ge=5, le=500)]
TrimMilliseconds = Annotated[int, Field(ge=0, le=5000)]
CrossfadeMilliseconds = Annotated[int, Field(ge=0, le=500)]
