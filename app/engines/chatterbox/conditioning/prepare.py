"""Compute a voice's `Conditionals` from samples of speech, as `prepare_conditionals` upstream."""

import math

import librosa
import numpy as np
import pyloudnorm  # type: ignore[import-untyped]
import torch
from chatterbox.models.s3gen import S3GEN_SR
from chatterbox.models.s3tokenizer import S3_SR

from app.core.audio import Samples
from app.core.errors import UnusableAudio
from app.engines.chatterbox.checkpoint.models import Models
from app.engines.chatterbox.conditioning.conditionals import Conditionals, from_tensors


def prepare(models: Models, samples: Samples, rate: int) -> Conditionals:
    """Compute the conditionals of the voice in `samples`: float32 [n], mono, `rate` Hz.

    Draws no random numbers. Raises `UnusableAudio` if the audio is too short for the model.
    """
    spec = models.spec.prompt
    if len(samples) < spec.min_audio_s * rate:
        seconds = math.floor(10 * len(samples) / rate) / 10
        raise UnusableAudio(
            f"{models.spec.title} needs a voice of at least {spec.min_audio_s:g} s, "
            f"and this one has {seconds:.1f} s: give a longer one or another model.",
            param="voice_id",
        )
    at_24k = librosa.resample(samples, orig_sr=rate, target_sr=S3GEN_SR)
    if spec.loudness_lufs is not None:
        at_24k = normalise_loudness(at_24k, S3GEN_SR, spec.loudness_lufs)
    at_16k = librosa.resample(at_24k, orig_sr=S3GEN_SR, target_sr=S3_SR)
    prompt_tokens, _ = models.s3gen.tokenizer([at_16k[: spec.t3_s * S3_SR]], max_len=spec.t3_tokens)
    speaker = models.voice_encoder.embeds_from_wavs([at_16k], sample_rate=S3_SR)
    s3gen_prompt = models.s3gen.embed_ref(
        at_24k[: spec.s3gen_s * S3GEN_SR], S3GEN_SR, device=models.device
    )
    return from_tensors(
        {
            "speaker_embedding": torch.from_numpy(speaker).to(models.device),
            "prompt_tokens": prompt_tokens,
            **s3gen_prompt,
        }
    )


def normalise_loudness(samples: Samples, rate: int, lufs: float) -> Samples:
    """Scale float32 [n] to a loudness of `lufs` (ITU-R BS.1770), as `norm_loudness` upstream does.

    Silence is returned as it is.
    """
    loudness = pyloudnorm.Meter(rate).integrated_loudness(samples)
    gain = 10 ** ((lufs - loudness) / 20)
    return samples * np.float32(gain) if math.isfinite(gain) and gain > 0 else samples
