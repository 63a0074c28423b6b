"""The random numbers of a checkpoint: weights, conditionals and a tokenizer.

As upstream initialises its modules, comparisons of them show little: no frame is voiced, and the
vocoder ignores the mel. The numbers here are scaled so that every part matters: speech has voiced
and unvoiced stretches, the waveform follows the mel, few speech tokens are far likelier than all
others, and the end token comes after about `end_at` tokens.
"""

import string
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from chatterbox.models.s3gen import S3Gen
from chatterbox.models.t3 import T3
from chatterbox.models.t3.modules.t3_config import T3Config
from chatterbox.models.voice_encoder import VoiceEncoder
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor
from torch.nn.functional import normalize

from app.core.audio import TOKENS_PER_SECOND

Weights = dict[str, Tensor]

END = T3Config().stop_speech_token
START = T3Config().start_speech_token
NOT_IN_FILES = S3Gen.ignore_state_dict_missing


def models(seed: int, end_at: int | None) -> Iterator[tuple[str, Weights]]:
    """Yield each model's name and weights, in the sizes that upstream's classes have now."""
    for name, kind, scale in (
        ("ve", VoiceEncoder, _scale_voice_encoder),
        ("t3_cfg", T3, lambda weights: _scale_t3(weights, end_at)),
        ("s3gen", S3Gen, _scale_s3gen),
    ):
        weights = _random_weights(kind, f"{name}, seed {seed}")
        scale(weights)
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


def _scale_t3(weights: Weights, end_at: int | None) -> None:
    for name, weight in weights.items():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            weight *= 2  # sharp attention, not an average
        if name.endswith(("text_emb.weight", "speech_emb.weight")):
            weight *= weight.shape[1] ** 0.5  # not drowned by what the layers add
    head = weights["speech_head.weight"]
    # Logits so far apart that a handful of the 8,194 tokens is likely, and some often again.
    head *= 2.5 * torch.exp(0.4 * torch.randn(len(head), 1, generator=_generator("loudness")))
    head[START:] *= 0.7  # special tokens: rare
    head[START] = 0
    if end_at is None:
        head[END] = 0
    else:
        layers = sum("q_proj" in name for name in weights)
        _end_by_position(weights["speech_pos_emb.emb.weight"], head[END], end_at, layers)


def _end_by_position(positions: Tensor, end: Tensor, end_at: int, layers: int) -> None:
    """Let one direction of the positions grow with time, and align the end token's row with it."""
    direction = end / end.norm()
    growth = (torch.arange(len(positions)) / end_at - 0.5).clamp(max=2)
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


# --- conditionals and text ----------------------------------------------------------------------


def conditionals(seed: int, prompt_repeats: int = 1) -> dict[str, dict[str, Any]]:
    """Return a voice as upstream saves it, with a prompt of two seconds that is repeated."""
    generator = _generator(f"conds, seed {seed}")
    tokens, vocabulary = 2 * TOKENS_PER_SECOND, START

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    return {
        "t3": {
            "speaker_emb": normalize(noise(1, 256).relu(), dim=1),
            "clap_emb": None,
            "cond_prompt_speech_tokens": torch.randint(vocabulary, (1, 150), generator=generator),
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


def tokenizer() -> Tokenizer:
    """Return a tokenizer with a token for each character, of the real size."""
    config = T3Config.english_only()
    special = {
        "[STOP]": config.stop_text_token,
        "[UNK]": 1,
        "[SPACE]": 2,
        "[START]": config.start_text_token,
    }
    characters = string.punctuation + string.ascii_letters + string.digits
    vocabulary = special | {character: 3 + i for i, character in enumerate(characters)}
    free = set(range(config.text_tokens_dict_size)) - set(vocabulary.values())
    vocabulary |= {f"[PLACEHOLDER{i}]": i for i in free}
    tokenizer = Tokenizer(BPE(vocabulary, [], unk_token="[UNK]", fuse_unk=False))  # noqa: S106
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.add_special_tokens(list(special))
    return tokenizer
