"""Chatterbox checkpoints made of random numbers, in the layout of the real ones.

They show that two programs compute the same from the same weights, without the real weights; see
`bench.random_weights`. A "tiny" checkpoint is for upstream's classes as they are built inside
`tiny_sizes()`. Called by `bench engine` and by the engine's tests.
"""

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Literal
from unittest import mock

import torch
from chatterbox.models.s3gen import s3gen
from chatterbox.models.s3gen.transformer import upsample_encoder
from chatterbox.models.t3.llama_configs import LLAMA_CONFIGS
from chatterbox.models.t3.modules import cond_enc
from s3tokenizer.model_v2 import S3TokenizerV2
from safetensors.torch import save_file

from app.bench import random_tokenizers, random_weights
from app.core.errors import StartupError
from app.engines.chatterbox.variants import VARIANTS

PROMPT_REPEATS = 5
"""The random voice has a prompt of two seconds; recordings usually have ten or more."""


@contextmanager
def benchmark_checkpoint(
    model_path: str, tiny: bool, variant: str = "chatterbox"
) -> Iterator[Path]:
    """Yield `model_path` or, if that is empty, a folder of random weights with a long prompt.

    Random weights of full size (2 to 3.2 GB) are made once a machine. Raises `StartupError`.
    """
    if model_path:
        yield Path(model_path)
        return
    with tempfile.TemporaryDirectory(prefix="tts-bench-") as name:
        folder, spec = Path(name), VARIANTS[variant]
        try:
            if tiny:
                make_checkpoint(folder, variant=variant)
            else:
                for path in full_checkpoint(variant).glob("[!.]*"):
                    (folder / path.name).symlink_to(path)
            voice = folder / spec.manifest.conditionals
            voice.unlink()
            torch.save(random_weights.conditionals(spec, 0, PROMPT_REPEATS), voice)
        except OSError as fault:
            raise StartupError(
                f"cannot make random weights in {tempfile.gettempdir()}: {fault.strerror}"
            ) from fault
        yield folder


def make_checkpoint(
    folder: Path,
    size: Literal["tiny", "full"] = "tiny",
    seed: int = 0,
    end_at: int | None = 100,
    variant: str = "chatterbox",
) -> Path:
    """Write the files of `variant` to `folder`, which is made if missing, and return it.

    The same arguments give the same bytes. The end token comes after about `end_at` speech tokens
    (40 ms each), or never if that is None. With Turbo and Nano, whose positions count from the
    voice's prompt on, it comes later if that is shorter than the default voice's.
    """
    spec = VARIANTS[variant]
    folder.mkdir(parents=True, exist_ok=True)
    with tiny_sizes() if size == "tiny" else ExitStack():
        for name, weights in random_weights.models(spec, seed, end_at):
            _WRITERS[Path(name).suffix](weights, folder / name)
    for name in OLDER_NAMES.get(variant, ()):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(spec.manifest.t3)
    torch.save(random_weights.conditionals(spec, seed), folder / spec.manifest.conditionals)
    random_tokenizers.WRITERS[spec.frontend.kind](folder, spec)
    return folder


OLDER_NAMES = {"multilingual": ("t3_mtl23ls_v2.safetensors",)}
"""Other names of T3's file: those that the package reads, which is older."""

_WRITERS: dict[str, Callable[[random_weights.Weights, Path], None]] = {
    ".safetensors": save_file,
    ".pt": torch.save,
}


def full_checkpoint(variant: str = "chatterbox") -> Path:
    """Make a full-size checkpoint (2 to 3.2 GB) once a machine; keep it in the temporary folder.

    Raises `StartupError` if another user has made a folder of that name.
    """
    modules = random_weights.__file__, random_tokenizers.__file__, __file__
    source = b"".join(Path(module).read_bytes() for module in modules)
    digest = hashlib.sha256(source).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"{variant}-checkpoint-{digest}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.lstat().st_uid != os.geteuid() or folder.is_symlink():
        raise StartupError(f"{folder} is another user's: remove it, or set TMPDIR")
    with open(folder / ".lock", "ab", opener=_without_following) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / VARIANTS[variant].manifest.tokenizer).exists():  # it is written last
            make_checkpoint(folder, "full", variant=variant)
    return folder


def _without_following(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, mode=0o600)


@contextmanager
def tiny_sizes() -> Iterator[None]:
    """Make upstream's classes build few and narrow layers inside.

    Kinds and order of the layers, vocabularies, the mel's 80 bands and rates stay.
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
        for name, size, layers in (("GPT2_medium", width, 3), ("GPT2_small", width // 2, 2)):
            gpt2_sizes = {"n_embd": size, "hidden_size": size, "n_head": 2, "n_layer": layers}
            override(LLAMA_CONFIGS[name], vocab_size=8, **gpt2_sizes)
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
