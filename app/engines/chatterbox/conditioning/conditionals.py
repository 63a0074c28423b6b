"""`Conditionals`: the models' inputs for a voice, without the exaggeration."""

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from app.core.audio import TOKENS_PER_SECOND
from app.engines.chatterbox.s3gen.constants import FRAMES_PER_TOKEN, MEL_BANDS, SPEAKER_DIM


@dataclass(frozen=True, eq=False)
class S3GenPrompt:
    """The speech that S3Gen continues: P tokens of two mel frames each.

    `prompt_token`: int64 [1, P]. `prompt_feat`: log mel, float32 [1, 2P, 80]. `embedding`: the
    speaker's x-vector, float32 [1, 192]. The names are upstream's.
    """

    prompt_token: Tensor
    prompt_feat: Tensor
    embedding: Tensor


@dataclass(frozen=True, eq=False)
class Conditionals:
    """A prepared voice; its tensors are on the models' device.

    For T3, `speaker_embedding`: float32 [1, 256], and `prompt_tokens`: speech tokens of the
    voice's first seconds, int64 [1, n].
    """

    speaker_embedding: Tensor
    prompt_tokens: Tensor
    s3gen: S3GenPrompt

    def limit_prompt(self, seconds: int) -> "Conditionals":
        """Shorten S3Gen's prompt to its first `seconds`; the speaker embedding stays the same."""
        prompt = self.s3gen
        tokens = prompt.prompt_token[:, : seconds * TOKENS_PER_SECOND]
        mel = prompt.prompt_feat[:, : FRAMES_PER_TOKEN * tokens.shape[1]]
        return replace(self, s3gen=replace(prompt, prompt_token=tokens, prompt_feat=mel))


TENSOR_SHAPES: dict[str, tuple[int | None, ...]] = {
    "speaker_embedding": (1, 256),
    "prompt_tokens": (1, None),
    "prompt_token": (1, None),
    "prompt_feat": (1, None, MEL_BANDS),
    "embedding": (1, SPEAKER_DIM),
}
"""All tensors of a voice by the names of their fields; None stands for any size."""


def builtin_conditionals(saved: dict[str, dict[str, Any]]) -> Conditionals:
    """Convert upstream's `Conditionals` as conds.pt holds them. Raises what `from_tensors` does."""
    t3 = saved["t3"]
    return from_tensors(
        {
            "speaker_embedding": t3["speaker_emb"],
            "prompt_tokens": t3["cond_prompt_speech_tokens"],
            **saved["gen"],
        }
    )


def from_tensors(tensors: dict[str, Tensor]) -> Conditionals:
    """Build conditionals from the tensors named in `TENSOR_SHAPES`. Raises KeyError, ValueError."""
    for name, shape in TENSOR_SHAPES.items():
        if not _has_shape(tensors[name], shape):
            raise ValueError(f"{name} is not a tensor of shape {shape}")
        if not tensors[name].isfinite().all():  # NaN would stay in T3's KV cache, for other jobs
            raise ValueError(f"{name} contains NaN or infinity")
    tokens = tensors["prompt_token"].long()
    frames = FRAMES_PER_TOKEN * tokens.shape[1]
    # Where the audio ends within a token, upstream keeps an odd frame too many, and then plays the
    # first 20 ms of the generated speech as part of the prompt.
    mel = tensors["prompt_feat"].float()[:, :frames]
    if mel.shape[1] != frames:
        raise ValueError(f"prompt_feat has {mel.shape[1]} frames for {tokens.shape[1]} tokens")
    return Conditionals(
        speaker_embedding=tensors["speaker_embedding"].float(),
        prompt_tokens=tensors["prompt_tokens"].long(),
        s3gen=S3GenPrompt(tokens, mel, tensors["embedding"].float()),
    )


def _has_shape(tensor: Tensor, shape: tuple[int | None, ...]) -> bool:
    return (
        isinstance(tensor, Tensor)
        and tensor.dim() == len(shape)
        and all(want in (None, size) for size, want in zip(tensor.shape, shape, strict=True))
    )
