"""A cloned voice as the models take it: samples of speech enter, a `ChatterboxVoice` leaves.

    prepare(models, samples, rate)                    a pure function
    VoiceCache(folder, models).voice(samples, rate)   the same or, after a restart, from disk
    saved_voice(conditionals)                         the loader's: the default voice in conds.pt

The numbers are those of upstream's `ChatterboxTTS.prepare_conditionals`. How much the voice is to
exaggerate is not among them: each request says that.
"""

import hashlib
import logging
import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import librosa
import numpy as np
import safetensors.torch
import torch
from chatterbox.models.s3gen import S3GEN_SR
from chatterbox.models.s3tokenizer import S3_SR
from safetensors import SafetensorError
from torch import Tensor

from app.core.audio import TOKENS_PER_SECOND, Samples

if TYPE_CHECKING:
    from app.engines.chatterbox.checkpoint.loader import Models

log = logging.getLogger(__name__)

FRAMES_PER_TOKEN = 2
MEL_BANDS = 80
SPEAKER_SIZE = 192
"""Of an x-vector."""

T3_PROMPT_S = 6
S3GEN_PROMPT_S = 10


@dataclass(frozen=True, eq=False)
class S3GenReference:
    """What S3Gen continues: up to ten seconds of the voice, P tokens of two mel frames each.

    `prompt_token`: int64 [1, P]. `prompt_feat`: log mel, float32 [1, 2P, 80]. `embedding`: the
    speaker's x-vector, float32 [1, 192].
    """

    prompt_token: Tensor
    prompt_feat: Tensor
    embedding: Tensor


@dataclass(frozen=True, eq=False)
class ChatterboxVoice:
    """A voice, prepared; its tensors are on the models' device.

    For T3, `speaker_embedding`: float32 [1, 256], and `prompt_tokens`: the first six seconds,
    int64 [1, 150], fewer where the audio is shorter.
    """

    speaker_embedding: Tensor
    prompt_tokens: Tensor
    s3gen: S3GenReference

    def with_prompt_of(self, seconds: int) -> "ChatterboxVoice":
        """The same voice, of which S3Gen continues no more than the first `seconds`.

        The speaker's embedding still knows all of it.
        """
        whole = self.s3gen
        tokens = whole.prompt_token[:, : seconds * TOKENS_PER_SECOND]
        reference = replace(
            whole,
            prompt_token=tokens,
            prompt_feat=whole.prompt_feat[:, : FRAMES_PER_TOKEN * tokens.shape[1]],
        )
        return replace(self, s3gen=reference)


def prepare(models: "Models", samples: Samples, rate: int) -> ChatterboxVoice:
    """The voice that speaks in `samples`: float32 [n], mono, `rate` Hz, at least a second of it."""
    at_24k = librosa.resample(samples, orig_sr=rate, target_sr=S3GEN_SR)
    at_16k = librosa.resample(at_24k, orig_sr=S3GEN_SR, target_sr=S3_SR)
    speech_tokenizer, length = models.s3gen.tokenizer, models.t3.hp.speech_cond_prompt_len
    prompt_tokens, _ = speech_tokenizer([at_16k[: T3_PROMPT_S * S3_SR]], max_len=length)
    embedding = models.voice_encoder.embeds_from_wavs([at_16k], sample_rate=S3_SR)
    reference = models.s3gen.embed_ref(
        at_24k[: S3GEN_PROMPT_S * S3GEN_SR], S3GEN_SR, device=models.device
    )
    return _voice(
        {
            "speaker_embedding": torch.from_numpy(embedding).to(models.device),
            "prompt_tokens": prompt_tokens,
            **reference,
        }
    )


def saved_voice(conditionals: dict[str, dict[str, Any]]) -> ChatterboxVoice:
    """The voice in upstream's `Conditionals`, as conds.pt holds them.

    Raises KeyError, TypeError or ValueError when something is missing or has another shape.
    """
    t3, s3gen = conditionals["t3"], conditionals["gen"]
    return _voice(
        {
            "speaker_embedding": t3["speaker_emb"],
            "prompt_tokens": t3["cond_prompt_speech_tokens"],
            **s3gen,
        }
    )


_SHAPES: dict[str, tuple[int | None, ...]] = {  # None: any
    "speaker_embedding": (1, 256),
    "prompt_tokens": (1, None),
    "prompt_token": (1, None),
    "prompt_feat": (1, None, MEL_BANDS),
    "embedding": (1, SPEAKER_SIZE),
}


def _voice(tensors: dict[str, Tensor]) -> ChatterboxVoice:
    """The voice made of the tensors named in `_SHAPES`. Raises KeyError, ValueError."""
    for name, shape in _SHAPES.items():
        if not _fits(tensors[name], shape):
            raise ValueError(f"{name} is not a tensor of shape {shape}")
        if not tensors[name].isfinite().all():  # it would stay in T3's cache, for other jobs
            raise ValueError(f"{name} holds what is no number")
    tokens = tensors["prompt_token"].long()
    length = tokens.shape[1]
    # Upstream leaves an odd frame in where the audio ends amid a token, and then takes the first
    # 20 ms of the answer for a part of the prompt.
    frames = tensors["prompt_feat"].float()[:, : FRAMES_PER_TOKEN * length]
    if frames.shape[1] != FRAMES_PER_TOKEN * length:
        raise ValueError(f"prompt_feat has {frames.shape[1]} frames for {length} tokens")
    return ChatterboxVoice(
        speaker_embedding=tensors["speaker_embedding"].float(),
        prompt_tokens=tensors["prompt_tokens"].long(),
        s3gen=S3GenReference(
            prompt_token=tokens,
            prompt_feat=frames,
            embedding=tensors["embedding"].float(),
        ),
    )


def _fits(tensor: Tensor, shape: tuple[int | None, ...]) -> bool:
    return (
        isinstance(tensor, Tensor)
        and tensor.dim() == len(shape)
        and all(want in (None, size) for size, want in zip(tensor.shape, shape, strict=True))
    )


class VoiceCache:
    """Prepared voices on disk, a file of 170 KB each, so that a restart is fast.

    A file that cannot be used is written anew. Where nothing can be written there is no cache: the
    log says so once. Beyond `LIMIT` files, those that were not used for longest go.
    """

    FORMAT = 1
    """To be raised when `prepare` gives other numbers for the same audio and weights."""

    LIMIT = 1000

    def __init__(self, folder: Path, models: "Models") -> None:
        self._folder = folder
        self._models = models
        self._writable = True

    def voice(self, samples: Samples, rate: int) -> ChatterboxVoice:
        """What `prepare` gives for this audio."""
        path = self._folder / f"{self._key(samples, rate)}.safetensors"
        voice = self._load(path)
        if voice is None:
            voice = prepare(self._models, samples, rate)
            self._store(path, voice)
        return voice

    def _key(self, samples: Samples, rate: int) -> str:
        key = hashlib.sha256(repr((self.FORMAT, self._models.digest, rate)).encode())
        key.update(np.ascontiguousarray(samples).data)
        return key.hexdigest()

    def _load(self, path: Path) -> ChatterboxVoice | None:
        try:
            tensors = safetensors.torch.load(path.read_bytes())
            voice = _voice({name: t.to(self._models.device) for name, t in tensors.items()})
        except OSError:
            return None
        except (SafetensorError, KeyError, ValueError) as fault:
            log.warning("%s is of no use (%s): preparing that voice again", path, fault)
            return None
        with suppress(OSError):  # a cache that may only be read serves as well
            os.utime(path)
        return voice

    def _store(self, path: Path, voice: ChatterboxVoice) -> None:
        if not self._writable:
            return
        named = vars(voice) | vars(voice.s3gen)
        content = safetensors.torch.save({name: named[name].contiguous() for name in _SHAPES})
        part = path.with_name(uuid4().hex)
        try:
            self._folder.mkdir(exist_ok=True)
            part.write_bytes(content)
            part.replace(path)
            self._forget_the_oldest()
        except OSError as fault:
            self._writable = False
            log.warning("no prepared voice is kept in %s: %s", self._folder, fault.strerror)

    def _forget_the_oldest(self) -> None:
        ages = []
        for path in self._folder.iterdir():
            with suppress(FileNotFoundError):  # another worker does the same
                ages.append((path.stat().st_mtime_ns, path))
        for _, path in sorted(ages)[: -self.LIMIT]:
            path.unlink(missing_ok=True)
