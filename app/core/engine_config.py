"""What an engine is given when it is constructed, and the sizes of its pipeline's queues."""

from typing import Literal

import msgspec

T3Dtype = Literal["auto", "float32", "bfloat16", "int8"]
S3GenDtype = Literal["auto", "float32", "bfloat16"]


class ChatterboxOptions(msgspec.Struct, frozen=True):
    """How Chatterbox trades exactness for speed; one for all workers, so a retry says the same."""

    first_slice_tokens: int = 0
    slice_growth: float = 1.0
    voice_prompt_seconds: int = 10
    t3_dtype: T3Dtype = "auto"
    s3gen_dtype: S3GenDtype = "auto"
    s3gen_context_tokens: int = 0


class EngineConfig(msgspec.Struct, frozen=True):
    """What an engine may use and is asked for."""

    device: str  # "cpu", or "cuda": the one GPU that CUDA_VISIBLE_DEVICES leaves
    threads: int  # of the CPU
    model_path: str
    slots: int = 1  # jobs that may come at the same time
    watermark: bool = True  # whether speech is marked as synthetic
    torch_compile: bool = False  # whether the model is compiled, if the engine can
    tuning: ChatterboxOptions = ChatterboxOptions()  # means something to Chatterbox alone


class QueueSizes(msgspec.Struct, frozen=True):
    """How many items may wait between T3 and S3Gen, and between S3Gen and PCM."""

    slices: int
    audio: int
