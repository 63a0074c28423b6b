"""Load upstream's modules with their weights from a folder of model files.

As upstream's `from_local`, but names what is wrong with a file, reads weights straight onto the
device, and draws no random numbers for parameters that are overwritten anyway.
"""

import hashlib
import pickle
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import torch
from chatterbox.models.s3gen import S3Gen
from chatterbox.models.t3 import T3
from chatterbox.models.tokenizers import EnTokenizer
from chatterbox.models.voice_encoder import VoiceEncoder
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.overrides import TorchFunctionMode

from app.core.engine_config import S3GenDtype, T3Dtype
from app.core.errors import StartupError
from app.engines.chatterbox.checkpoint.mapped_file import (
    MappedFile,
    load_pickle,
    map_file,
    offload_blocks,
)
from app.engines.chatterbox.checkpoint.models import Models
from app.engines.chatterbox.checkpoint.t3_config import t3_config
from app.engines.chatterbox.checkpoint.validation import (
    Weights,
    check_files,
    check_state_dict,
    check_tokenizer,
    check_voice,
)
from app.engines.chatterbox.conditioning.conditionals import Conditionals, builtin_conditionals
from app.engines.chatterbox.frontend.multilingual import MultilingualTokenizer
from app.engines.chatterbox.frontend.turbo_tokenizer import TurboTokenizer
from app.engines.chatterbox.runtime.linear import (
    Int8Linear,
    PackedLinear,
    convert_linears_to_bf16,
    fuse_linears,
    replace_linears,
    use_linears,
)
from app.engines.chatterbox.variants import ENGLISH, ModelSpec

Module = TypeVar("Module", bound=nn.Module)


def load(
    folder: Path,
    device: str,
    t3_dtype: T3Dtype = "float32",
    s3gen_dtype: S3GenDtype = "float32",
    packed: bool = False,
    spec: ModelSpec = ENGLISH,
) -> Models:
    """Load the model `spec` from `folder`. Raises `StartupError`, naming file and reason.

    Dtype "auto" is bfloat16 on a GPU that supports it, else float32. `packed` (CPU only): linear
    layers are computed by oneDNN, see `linear`.
    """
    check_files(folder, spec)
    _check_dtypes(device, t3_dtype, s3gen_dtype)
    usual: S3GenDtype = "bfloat16" if device == "cuda" and _has_bfloat16() else "float32"
    t3_dtype = usual if t3_dtype == "auto" else t3_dtype
    s3gen_dtype = usual if s3gen_dtype == "auto" else s3gen_dtype
    if device == "cuda" and t3_dtype == s3gen_dtype == "bfloat16":
        torch.set_float32_matmul_precision("high")  # for the products that stay in float32
    files = spec.manifest
    checkpoint = _Checkpoint(folder, device, spec)
    return Models(
        spec=spec,
        t3=_load_t3(checkpoint, t3_dtype, packed),
        s3gen=_load_s3gen(checkpoint, s3gen_dtype, packed),
        voice_encoder=checkpoint.load(VoiceEncoder, files.voice_encoder),
        tokenizer=_load_tokenizer(folder / files.tokenizer, spec),
        default_voice=_load_conditionals(folder / files.conditionals, spec, device),
        device=torch.device(device),
        digest=_digest(spec, folder),
        mapped_files=tuple(checkpoint.mapped_files),
    )


def _check_dtypes(device: str, t3_dtype: T3Dtype, s3gen_dtype: S3GenDtype) -> None:
    if t3_dtype == "int8" and device != "cpu":
        raise StartupError("TTS_T3_DTYPE=int8 is for the CPU: on a GPU use float32 or bfloat16")
    for name, dtype in (("TTS_T3_DTYPE", t3_dtype), ("TTS_S3GEN_DTYPE", s3gen_dtype)):
        if dtype == "bfloat16" and device == "cuda" and not _has_bfloat16():
            raise StartupError(f"{name}=bfloat16 is not for this GPU: use float32")


def _has_bfloat16() -> bool:
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def _load_t3(checkpoint: "_Checkpoint", dtype: T3Dtype, packed: bool) -> T3:
    spec = checkpoint.spec
    t3 = checkpoint.load(lambda: T3(t3_config(spec.t3)), spec.manifest.t3)
    use_linears(t3.tfmr)
    if t3.is_gpt:
        del t3.tfmr.wte  # in the file, but unused: T3 has embeddings of its own
    path = checkpoint.folder / spec.manifest.t3
    match dtype:
        case "int8":
            replace_linears(t3, Int8Linear, path, "tfmr.", "speech_head")
        case "bfloat16":
            convert_linears_to_bf16(
                t3.tfmr, ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")
            )
        case _ if packed:
            replace_linears(t3, PackedLinear, path, "tfmr.", "speech_head")
    return t3


def _load_s3gen(checkpoint: "_Checkpoint", dtype: S3GenDtype, packed: bool) -> S3Gen:
    """Bfloat16 is for the estimator's blocks alone, which do nearly all the work."""
    spec = checkpoint.spec
    s3gen = checkpoint.load(lambda: S3Gen(meanflow=spec.flow.is_mean_flow), spec.manifest.s3gen)
    path = checkpoint.folder / spec.manifest.s3gen
    if dtype == "bfloat16":
        estimator = s3gen.flow.decoder.estimator
        for blocks in (estimator.down_blocks, estimator.mid_blocks, estimator.up_blocks):
            convert_linears_to_bf16(blocks, ("to_q", "to_k", "to_v"))
    elif packed:
        fuse_linears(s3gen, PackedLinear, path, "flow.decoder.", "to_q", "to_k", "to_v")
        replace_linears(s3gen, PackedLinear, path, "flow.")
    if checkpoint.mapped_files:
        offload_blocks(s3gen.tokenizer.encoder.blocks, path, "tokenizer.encoder.blocks.")
    return s3gen


class _Checkpoint:
    """Reads the weights in `folder`. On a CPU they stay in `mapped_files` until they are used."""

    def __init__(self, folder: Path, device: str, spec: ModelSpec) -> None:
        self.folder = folder
        self.spec = spec
        self.mapped_files: list[MappedFile] = []
        self._device = device

    def load(self, module_class: Callable[[], Module], name: str) -> Module:
        path = self.folder / name
        weights = self._read(path)
        with SkipWeightInit():
            module = module_class()
        check_state_dict(module, weights, path, self.spec)
        module.load_state_dict(weights, strict=False, assign=True)
        return module.to(self._device, torch.float32).eval().requires_grad_(False)

    def _read(self, path: Path) -> Weights:
        try:
            weights = self._read_all(path)
        except (SafetensorError, *_BROKEN_PICKLE) as error:
            raise StartupError(
                f"{path} of {self.spec.title} is damaged or cut off: {_reason(error)}"
            ) from error
        except OSError as error:
            raise _unreadable(path, error) from error
        if self._device != "cpu":
            return weights
        file = map_file(path)
        self.mapped_files.append(file)
        mapped = file.tensors()
        return {name: mapped[name] if name in mapped else weights[name].clone() for name in weights}

    def _read_all(self, path: Path) -> Weights:
        if path.suffix == ".pt":
            return load_pickle(path)
        return load_file(path, device=self._device)


class SkipWeightInit(TorchFunctionMode):
    """Skip random initialisers, but unlike the meta device keep what constructors compute."""

    INITIALISERS = frozenset({"normal_", "uniform_", "kaiming_normal_", "kaiming_uniform_"})

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.__name__ in self.INITIALISERS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


TOKENIZERS: dict[str, Callable[[str], Any]] = {
    "english": EnTokenizer,
    "multilingual": MultilingualTokenizer,
    "turbo": TurboTokenizer,
}
"""By `FrontendSpec.kind`; called with the path of `Manifest.tokenizer`."""


def _load_tokenizer(path: Path, spec: ModelSpec) -> Any:
    try:
        path.open().close()  # the tokenizer raises a bare Exception for any fault
        tokenizer = TOKENIZERS[spec.frontend.kind](str(path))
    except OSError as error:
        raise _unreadable(path, error) from error
    except Exception as error:
        raise StartupError(f"{path} of {spec.title} is not a tokenizer: {error}") from error
    check_tokenizer(tokenizer, spec, path)
    return tokenizer


_BROKEN_PICKLE = (
    pickle.UnpicklingError,
    *(EOFError, RuntimeError),  # torch's, if the file is no archive
    *(LookupError, TypeError, ValueError),  # if it holds something else
)


def _load_conditionals(path: Path, spec: ModelSpec, device: str) -> Conditionals:
    try:
        content = BytesIO(path.read_bytes())
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        voice = builtin_conditionals(torch.load(content, map_location=device, weights_only=True))
    except _BROKEN_PICKLE as error:
        raise StartupError(f"{path} of {spec.title} is not a voice: {_reason(error)}") from error
    check_voice(voice, spec, path)
    return voice


def _reason(error: Exception) -> str:
    return str(error) or "it is empty"


def _unreadable(path: Path, error: OSError) -> StartupError:
    return StartupError(f"cannot read {path}: {error.strerror or error}")


def _digest(spec: ModelSpec, folder: Path) -> str:
    paths = [folder / name for name in spec.manifest.files if (folder / name).exists()]
    stats = [(path.name, path.stat()) for path in paths]
    files = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    return hashlib.sha256(repr((spec.name, files)).encode()).hexdigest()
