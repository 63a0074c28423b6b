"""Voice conversion: what is said in a recording, as speech tokens for S3Gen.

As upstream's `ChatterboxVC`, which needs neither T3 nor a text.
"""

from collections.abc import Iterator

import librosa
import torch
from chatterbox.models.s3tokenizer import S3_SR

from app.core.audio import Samples
from app.engines.chatterbox.checkpoint.models import Models

MAX_SLICE_TOKENS = 500


@torch.inference_mode()
def tokens_of(models: Models, speech: Samples, rate: int) -> list[int]:
    """The speech tokens of `speech`: float32 [n] at `rate` Hz, of at most 30 seconds."""
    at_16k = librosa.resample(speech, orig_sr=rate, target_sr=S3_SR)
    tokens, _ = models.s3gen.tokenizer([torch.from_numpy(at_16k)])
    listed: list[int] = tokens[0].tolist()
    return listed


def conversion_slices(tokens: list[int], first: int) -> Iterator[list[int]]:
    """Slices of `tokens` that double from `first` on: all tokens are there, so few solves do."""
    start, length = 0, first
    while start < len(tokens):
        yield tokens[start : start + length]
        start, length = start + length, min(2 * length, MAX_SLICE_TOKENS)
