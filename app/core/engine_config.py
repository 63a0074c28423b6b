"""The configuration of an engine and of its pipeline's queues."""

from typing import Literal

import msgspec

T3Dtype = Literal["auto", "float32", "bfloat16", "int8"]
S3GenDtype = Literal["auto", "float32", "bfloat16"]


class ChatterboxOptions(msgspec.Struct, frozen=True):
    """Trade-offs of exactness and speed; equal in all workers, so retries give equal speech."""

    first_slice_tokens: int = 0
    slice_growth: float = 1.0
    voice_prompt_seconds: int = 10
    t3_dtype: T3Dtype = "auto"
    s3gen_dtype: S3GenDtype = "auto"
    s3gen_context_tokens: int = 0


class ModelFiles(msgspec.Struct, frozen=True):
    """File names that take the place of those in a model's manifest, where they are not empty.

    `mean_flow`: Turbo's S3Gen takes the place of the model's own.
    """

    t3: str = ""
    s3gen: str = ""
    mean_flow: bool = False


PUBLISHED_FILES = ModelFiles()


class EngineConfig(msgspec.Struct, frozen=True):
    device: str  # "cpu", or "cuda": the only GPU in CUDA_VISIBLE_DEVICES
    threads: int  # CPU threads
    model_path: str
    slots: int = 1  # concurrent jobs
    watermark: bool = True
    torch_compile: bool = False
    tuning: ChatterboxOptions = ChatterboxOptions()  # ignored by other engines
    variant: str = "chatterbox"  # of Chatterbox: a name in `variants.VARIANTS`
    files: ModelFiles = PUBLISHED_FILES


class QueueSizes(msgspec.Struct, frozen=True):
    """The capacity of the queues between T3 and S3Gen (slices), and S3Gen and PCM (audio)."""

    slices: int
    audio: int
