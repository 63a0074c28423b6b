"""The random numbers of a checkpoint: weights and conditionals.

As upstream initialises its modules, comparisons of them show little: no frame is voiced, and the
vocoder ignores the mel. The numbers here are scaled so that every part matters: speech has voiced
and unvoiced stretches, the waveform follows the mel, few speech tokens are far likelier than all
others, and the end token comes after about `end_at` tokens.
"""

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import librosa
import torch
from chatterbox.models.s3gen import S3Gen
from chatterbox.models.s3tokenizer import S3_SR
from chatterbox.models.t3 import T3
from chatterbox.models.t3.modules.t3_config import T3Config
from chatterbox.models.voice_encoder import VoiceEncoder
from torch import Tensor
from torch.nn.functional import normalize

from app.core.audio import TOKENS_PER_SECOND
from app.engines.chatterbox.checkpoint.t3_config import t3_config
from app.engines.chatterbox.variants import ENGLISH, ModelSpec

Weights = dict[str, Tensor]

END = T3Config().stop_speech_token
START = T3Config().start_speech_token
NOT_IN_FILES = S3Gen.ignore_state_dict_missing


def models(spec: ModelSpec, seed: int, end_at: int | None) -> Iterator[tuple[str, Weights]]:
    """Yield each file's name and weights, in the sizes that upstream's classes have now."""
    files, scale_t3 = spec.manifest, _SCALE_T3[spec.frontend.kind]
    for name, kind, scale in (
        (files.voice_encoder, VoiceEncoder, _scale_voice_encoder),
        (files.t3, lambda: T3(t3_config(spec.t3)), lambda weights: scale_t3(weights, end_at)),
        (files.s3gen, lambda: S3Gen(meanflow=spec.flow.is_mean_flow), _scale_s3gen),
    ):
        weights = _random_weights(kind, f"{Path(name).stem}, seed {seed}")
        scale(weights)
        if name == files.s3gen and spec is not ENGLISH:  # which upstream loads less strictly
            weights |= _tokenizer_constants()
        yield name, weights


def _random_weights(kind: Callable[[], torch.nn.Module], label: str) -> Weights:
    """Return a tensor for each that `kind` loads; layers keep the level of their input."""
    with torch.device("meta"):  # names and shapes, no numbers yet
        shapes = kind().state_dict()
    return {
        name: _random_tensor(name, shape, f"{label}, {name}")
        for name, shape in shapes.items()
        if name not in NOT_IN_FILES
    }


def _random_tensor(name: str, like: Tensor, label: str) -> Tensor:
    if not like.is_floating_point():
        return torch.zeros(like.shape, dtype=like.dtype)
    noise = torch.empty(like.shape).normal_(generator=_generator(label))
    match name.split(".")[-1]:
        case "original0":  # of a weight norm: the norm of each filter
            return torch.ones(like.shape)
        case "running_var":
            return 1 + noise.abs()
        case "alpha" | "weight" if like.dim() == 1:  # of an activation or a normalisation
            return 1 + 0.1 * noise
        case _ if like.dim() == 1:
            return 0.1 * noise
    return noise.div_((like.numel() / like.shape[0]) ** 0.5)  # by the root of the fan-in


def _generator(label: str) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(label.encode()))


def _scale_voice_encoder(weights: Weights) -> None:
    weights["lstm.weight_ih_l0"] *= 10  # its mel is linear: most of it is near zero


def _scale_llama(weights: Weights, end_at: int | None) -> None:
    for name, weight in weights.items():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            weight *= 2  # sharp attention, not an average
    _scale_embeddings(weights)
    head = _scale_speech_head(weights, end_at)
    if end_at is not None:
        layers = sum("q_proj" in name for name in weights)
        _end_by_position(weights["speech_pos_emb.emb.weight"], head[END], end_at, layers)


def _scale_gpt2(weights: Weights, end_at: int | None) -> None:
    width = weights["tfmr.wpe.weight"].shape[1]
    for name, weight in weights.items():
        if name.endswith(("c_attn.weight", "c_fc.weight", "c_proj.weight")):  # [in, out]
            weight *= (weight.shape[1] / weight.shape[0]) ** 0.5  # by the root of the fan-in
        if name.endswith("c_attn.weight"):
            weight[:, : 2 * width] *= 2  # query and key
    weights["tfmr.wpe.weight"] *= 0.5 * width**0.5
    _scale_embeddings(weights)
    head, bias = _scale_speech_head(weights, end_at), weights["speech_head.bias"]
    bias *= 5
    bias[START:] = 0
    if end_at is not None:
        layers = sum("attn.c_attn.weight" in name for name in weights)
        _end_by_position(weights["tfmr.wpe.weight"], head[END], end_at, layers, _GPT2_PROMPT)


def _scale_multilingual(weights: Weights, end_at: int | None) -> None:
    _scale_llama(weights, end_at)
    weights["speech_head.weight"][END + 1 :] = 0  # S3Gen has no such tokens


_SCALE_T3 = {
    "english": _scale_llama,
    "multilingual": _scale_multilingual,
    "turbo": _scale_gpt2,
}
"""By `FrontendSpec.kind`."""

_GPT2_PROMPT = 1 + 375 + 20
"""Positions before the speech: the speaker, a voice's prompt of 15 s, and a short text."""


def _scale_embeddings(weights: Weights) -> None:
    for name, weight in weights.items():
        if name.endswith(("text_emb.weight", "speech_emb.weight")):
            weight *= weight.shape[1] ** 0.5  # not drowned by what the layers add


def _scale_speech_head(weights: Weights, end_at: int | None) -> Tensor:
    """Logits so far apart that a handful of all tokens is likely, and some often again."""
    head = weights["speech_head.weight"]
    head *= 2.5 * torch.exp(0.4 * torch.randn(len(head), 1, generator=_generator("loudness")))
    head[START:] *= 0.7  # special tokens: rare
    head[START] = 0
    if end_at is None:
        head[END] = 0
    return head


def _end_by_position(
    positions: Tensor, end: Tensor, end_at: int, layers: int, first: int = 0
) -> None:
    """Let one direction of the positions grow from the first speech token on.

    The end token's row is aligned with it.
    """
    direction = end / end.norm()
    growth = ((torch.arange(len(positions)) - first) / end_at - 0.5).clamp(max=2)
    growth[:first] = 0
    loudness = 10 * layers ** (1 / 3)  # through what all layers add
    positions += loudness * torch.outer(growth, direction)
    end.copy_(4 * direction)


def _scale_s3gen(weights: Weights) -> None:
    for name, weight in weights.items():
        if name.startswith("speaker_encoder.") and weight.dim() > 1:
            weight *= 2.0 if "linear_local" in name else 1.4  # what gates and ReLUs take away
    weights["flow.spk_embed_affine_layer.weight"] *= 10  # its input is normalised
    weights["flow.encoder_proj.weight"] *= 2
    weights["flow.decoder.estimator.final_proj.weight"] *= 1.5
    weights["flow.decoder.estimator.final_proj.bias"] -= 5  # the level of log mels
    if "flow.decoder.estimator.time_embed_mixer.weight" in weights:
        weights["flow.decoder.estimator.final_proj.weight"] *= 2  # fewer steps, no guidance
    _scale_vocoder({name.removeprefix("mel2wav."): weight for name, weight in weights.items()})


def _scale_vocoder(weights: Weights) -> None:
    filters, lengths = (f".parametrizations.weight.original{i}" for i in (1, 0))
    for name, weight in weights.items():
        if ".convs2." in name and name.endswith(lengths):
            weight *= 0.3  # or the level grows with each residual block
        if name.startswith("ups.") and name.endswith(lengths):
            weight *= 2  # or the source drowns the mel
        if name.startswith("source_downs") and weight.dim() > 1:
            weight *= 2.5  # the source's amplitude is 0.1
    weights["m_source.l_linear.bias"].zero_()
    weights["conv_pre" + filters] -= weights["conv_pre" + filters].mean(1, keepdim=True)
    bands = len(weights["conv_post.bias"]) // 2  # log magnitudes, then phases
    weights["conv_post" + lengths][:bands] *= 0.4
    weights["conv_post.bias"][0] = -3  # no direct current
    _scale_f0(weights, filters, lengths)


def _scale_f0(weights: Weights, filters: str, lengths: str) -> None:
    """Make one channel F0: slow, and far below zero in about half of the frames."""
    stem = "f0_predictor.condnet."
    for layer in "0246":
        kernel = weights[stem + layer + filters]
        kernel += 2 * kernel.mean(2, keepdim=True)
    last = weights[stem + "8" + filters]
    last -= last.mean(2, keepdim=True)  # sensitive to changes only: zero mean
    weights[stem + "8" + lengths] *= 8
    weights["f0_predictor.classifier.weight"].zero_()[0, 0] = 30
    weights["f0_predictor.classifier.bias"].fill_(33)  # ELU's least is -1: 3 Hz, unvoiced


def _tokenizer_constants() -> Weights:
    filters = librosa.filters.mel(sr=S3_SR, n_fft=400, n_mels=128)
    constants = torch.from_numpy(filters), torch.hann_window(400)
    return dict(zip(NOT_IN_FILES, constants, strict=True))


def conditionals(spec: ModelSpec, seed: int, prompt_repeats: int = 1) -> dict[str, dict[str, Any]]:
    """Return a voice as upstream saves it, with a prompt of two seconds that is repeated."""
    generator = _generator(f"conds, seed {seed}")
    tokens, vocabulary = 2 * TOKENS_PER_SECOND, START

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    return {
        "t3": {
            "speaker_emb": normalize(noise(1, 256).relu(), dim=1),
            "clap_emb": None,
            "cond_prompt_speech_tokens": torch.randint(
                vocabulary, (1, spec.prompt.t3_tokens), generator=generator
            ),
            "cond_prompt_speech_emb": None,
            "emotion_adv": torch.full((1, 1, 1), 0.5),
        },
        "gen": {
            "prompt_token": torch.randint(vocabulary, (1, tokens), generator=generator).repeat(
                1, prompt_repeats
            ),
            "prompt_token_len": torch.tensor([tokens * prompt_repeats]),
            "prompt_feat": (2 * noise(1, 2 * tokens, 80) - 5).repeat(1, prompt_repeats, 1),
            "prompt_feat_len": None,
            "embedding": noise(1, 192),
        },
    }
