"""Chatterbox checkpoints made of random numbers, in the layout of the real one.

The real weights need not be there to show that two programs compute the same from the same
weights. But as upstream initialises them, its modules are half dead: no frame is voiced, and the
vocoder says the same whatever mel it is given, so such a comparison passes with half of the code
broken. The numbers here are drawn so that everything matters: speech has voiced and unvoiced
stretches, the waveform follows the mel, a few speech tokens are far likelier than all others, and
the end token comes after about `end_at` tokens.

A "tiny" checkpoint is for upstream's classes as they are built inside `tiny_sizes()`.
"""

import fcntl
import hashlib
import json
import string
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Literal
from unittest import mock

import torch
from chatterbox.models.s3gen import S3Gen, s3gen
from chatterbox.models.s3gen.transformer import upsample_encoder
from chatterbox.models.t3 import T3
from chatterbox.models.t3.llama_configs import LLAMA_CONFIGS
from chatterbox.models.t3.modules import cond_enc
from chatterbox.models.t3.modules.t3_config import T3Config
from chatterbox.models.voice_encoder import VoiceEncoder
from s3tokenizer.model_v2 import S3TokenizerV2
from safetensors.torch import save_file
from torch import Tensor

Weights = dict[str, Tensor]

END = T3Config().stop_speech_token
START = T3Config().start_speech_token


def make_checkpoint(
    folder: Path,
    size: Literal["tiny", "full"] = "tiny",
    seed: int = 0,
    end_at: int | None = 100,
) -> Path:
    """Write the five files to `folder`, made if need be, and return it.

    The same arguments give the same bytes. `end_at`: after how many speech tokens (40 ms each)
    the end token comes, roughly; None: it never comes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tiny_sizes() if size == "tiny" else ExitStack():
        for name, kind, enliven in (
            ("ve", VoiceEncoder, _enliven_voice_encoder),
            ("t3_cfg", T3, lambda weights: _enliven_t3(weights, end_at)),
            ("s3gen", S3Gen, _enliven_s3gen),
        ):
            weights = _random_weights(kind, f"{name}, seed {seed}")
            enliven(weights)
            save_file(weights, folder / f"{name}.safetensors")
    torch.save(_random_conditionals(seed), folder / "conds.pt")
    (folder / "tokenizer.json").write_text(json.dumps(_tokenizer()))
    return folder


def full_checkpoint(seed: int = 0) -> Path:
    """A full-size one (3.2 GB), made once a machine and kept in the temporary folder."""
    recipe = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"chatterbox-checkpoint-{recipe}-{seed}"
    folder.mkdir(exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "tokenizer.json").exists():  # the last one to be written
            make_checkpoint(folder, "full", seed)
    return folder


@contextmanager
def tiny_sizes() -> Iterator[None]:
    """Inside, upstream's classes build themselves with few and narrow layers.

    What stays as it is: the layers' kinds and order, the vocabularies, the mel's 80 bands, the
    rates. A module once built is independent of this.
    """
    width = 64
    speech_tokenizer: Any = S3TokenizerV2.__init__.__defaults__[0]  # shared by all that are built
    with ExitStack() as patches:

        def shrink(module: ModuleType, name: str, **sizes: Any) -> None:
            usual = getattr(module, name)
            tiny = mock.patch.object(module, name, lambda *args, **kw: usual(*args, **kw | sizes))
            patches.enter_context(tiny)

        def override(config: dict[str, Any], **sizes: Any) -> None:
            patches.enter_context(mock.patch.dict(config, sizes))

        override(
            LLAMA_CONFIGS["Llama_520M"],
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=3,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=width // 2,
        )
        shrink(cond_enc, "Perceiver", pre_attention_query_size=width, embedding_dim=width)
        override(vars(speech_tokenizer), n_audio_state=128, n_audio_head=2, n_audio_layer=2)
        shrink(s3gen, "CAMPPlus", growth_rate=8, bn_size=2, init_channels=32)
        shrink(
            s3gen,
            "UpsampleConformerEncoder",
            input_size=width,
            output_size=width,
            attention_heads=2,
            linear_units=2 * width,
            num_blocks=2,
        )
        shrink(upsample_encoder, "PreLookaheadLayer", channels=width)
        shrink(upsample_encoder, "Upsample1D", channels=width, out_channels=width)
        shrink(s3gen, "CausalMaskedDiffWithXvec", input_size=width)
        shrink(
            s3gen,
            "ConditionalDecoder",
            channels=[width],
            num_mid_blocks=2,
            n_blocks=1,
            num_heads=2,
            attention_head_dim=width // 2,
        )
        shrink(s3gen, "HiFTGenerator", base_channels=width)
        shrink(s3gen, "ConvRNNF0Predictor", cond_channels=width)
        yield


# --- Weights --------------------------------------------------------------------------------------


NOT_IN_FILES = S3Gen.ignore_state_dict_missing


def _random_weights(kind: Callable[[], torch.nn.Module], label: str) -> Weights:
    """A tensor for each that `kind` loads: every layer about as loud as what enters it."""
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
        case "original0":  # of a weight norm: the length of each filter
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


def _enliven_voice_encoder(weights: Weights) -> None:
    weights["lstm.weight_ih_l0"] *= 10  # its mel is not logarithmic: most of it is near zero


def _enliven_t3(weights: Weights, end_at: int | None) -> None:
    for name, weight in weights.items():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            weight *= 2  # attention that picks, not an average of everything
        if name.endswith(("text_emb.weight", "speech_emb.weight")):
            weight *= weight.shape[1] ** 0.5  # to be heard beside what the layers add
    head = weights["speech_head.weight"]
    # Logits so far apart that a handful of the 8,194 tokens is likely, and some often again.
    head *= 2.5 * torch.exp(0.4 * torch.randn(len(head), 1, generator=_generator("loudness")))
    head[START:] *= 0.7  # these are not speech: now and then
    head[START] = 0
    if end_at is None:
        head[END] = 0
    else:
        layers = sum("q_proj" in name for name in weights)
        _end_by_position(weights["speech_pos_emb.emb.weight"], head[END], end_at, layers)


def _end_by_position(positions: Tensor, end: Tensor, end_at: int, layers: int) -> None:
    """Let one direction of the positions grow with time, and the end token's row listen to it."""
    direction = end / end.norm()
    growth = (torch.arange(len(positions)) / end_at - 0.5).clamp(max=2)
    loudness = 10 * layers ** (1 / 3)  # to be heard through all that they add
    positions += loudness * torch.outer(growth, direction)
    end.copy_(4 * direction)


def _enliven_s3gen(weights: Weights) -> None:
    for name, weight in weights.items():
        if name.startswith("speaker_encoder.") and weight.dim() > 1:
            weight *= 2.0 if "linear_local" in name else 1.4  # what its gates and ReLUs take away
    weights["flow.spk_embed_affine_layer.weight"] *= 10  # of a normalised embedding
    weights["flow.encoder_proj.weight"] *= 2
    weights["flow.decoder.estimator.final_proj.weight"] *= 1.5
    weights["flow.decoder.estimator.final_proj.bias"] -= 5  # where log mels are
    _enliven_vocoder({name.removeprefix("mel2wav."): weight for name, weight in weights.items()})


def _enliven_vocoder(weights: Weights) -> None:
    filters, lengths = (f".parametrizations.weight.original{i}" for i in (1, 0))
    for name, weight in weights.items():
        if ".convs2." in name and name.endswith(lengths):
            weight *= 0.3  # or each residual block is louder than the last
        if name.startswith("ups.") and name.endswith(lengths):
            weight *= 2  # or the mel is drowned by the source
        if name.startswith("source_downs") and weight.dim() > 1:
            weight *= 2.5  # the source's amplitude is 0.1
    weights["m_source.l_linear.bias"].zero_()
    weights["conv_pre" + filters] -= weights["conv_pre" + filters].mean(1, keepdim=True)
    bands = len(weights["conv_post.bias"]) // 2  # log magnitudes, then phases
    weights["conv_post" + lengths][:bands] *= 0.4
    weights["conv_post.bias"][0] = -3  # no direct current
    _enliven_pitch(weights, filters, lengths)


def _enliven_pitch(weights: Weights, filters: str, lengths: str) -> None:
    """Make one channel the pitch: slow, and far below zero in about half of the frames."""
    stem = "f0_predictor.condnet."
    for layer in "0246":
        kernel = weights[stem + layer + filters]
        kernel += 2 * kernel.mean(2, keepdim=True)
    last = weights[stem + "8" + filters]
    last -= last.mean(2, keepdim=True)  # hears changes only: about zero on the average
    weights[stem + "8" + lengths] *= 8
    weights["f0_predictor.classifier.weight"].zero_()[0, 0] = 30
    weights["f0_predictor.classifier.bias"].fill_(33)  # ELU's least is -1: 3 Hz, unvoiced


# --- Conditionals and text --------------------------------------------------------------------


def _random_conditionals(seed: int) -> dict[str, dict[str, Any]]:
    """A voice in the form in which upstream saves it: two seconds of prompt."""
    generator = _generator(f"conds, seed {seed}")
    tokens, unit = 50, torch.nn.functional.normalize
    vocabulary = START

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    return {
        "t3": {
            "speaker_emb": unit(noise(1, 256).relu(), dim=1),
            "clap_emb": None,
            "cond_prompt_speech_tokens": torch.randint(vocabulary, (1, 150), generator=generator),
            "cond_prompt_speech_emb": None,
            "emotion_adv": torch.full((1, 1, 1), 0.5),
        },
        "gen": {
            "prompt_token": torch.randint(vocabulary, (1, tokens), generator=generator),
            "prompt_token_len": torch.tensor([tokens]),
            "prompt_feat": 2 * noise(1, 2 * tokens, 80) - 5,
            "prompt_feat_len": None,
            "embedding": noise(1, 192),
        },
    }


def _tokenizer() -> dict[str, Any]:
    """A tokenizer.json: a token for each character; size and special tokens are the real one's."""
    config = T3Config.english_only()
    special = {
        "[STOP]": config.stop_text_token,
        "[UNK]": 1,
        "[SPACE]": 2,
        "[START]": config.start_text_token,
    }
    characters = string.punctuation + string.ascii_letters + string.digits
    vocabulary = special | {character: 3 + i for i, character in enumerate(characters)}
    taken = set(vocabulary.values())
    vocabulary |= {
        f"[PLACEHOLDER{i}]": i for i in range(config.text_tokens_dict_size) if i not in taken
    }
    return {
        "version": "1.0",
        "added_tokens": [
            {
                "id": index,
                "content": token,
                "special": True,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
            }
            for token, index in special.items()
        ],
        "pre_tokenizer": {"type": "Whitespace"},
        "model": {
            "type": "BPE",
            "unk_token": "[UNK]",
            "fuse_unk": False,
            "vocab": vocabulary,
            "merges": [],
        },
    }
