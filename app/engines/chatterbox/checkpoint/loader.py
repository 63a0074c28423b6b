"""The loader: the folder MODEL_PATH enters, upstream's modules with its weights leave.

Does what upstream's `ChatterboxTTS.from_local` does, but says what is wrong with a folder, puts
the weights straight onto the device, and draws no random numbers for modules that get weights
anyway. Called once, by the engine's constructor.
"""

import hashlib
import logging
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import torch
from chatterbox.models.s3gen import S3Gen
from chatterbox.models.t3 import T3
from chatterbox.models.t3.modules.t3_config import T3Config
from chatterbox.models.tokenizers import EnTokenizer
from chatterbox.models.voice_encoder import VoiceEncoder
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from app.core.engine_config import S3GenDtype, T3Dtype
from app.core.errors import StartupError
from app.engines.chatterbox.checkpoint.mapped_file import WeightsFile, let_go_one_by_one
from app.engines.chatterbox.conditioning.conditionals import ChatterboxVoice, saved_voice
from app.engines.chatterbox.runtime.linear import (
    Int8Linear,
    PackedLinear,
    convert_linears_to_bf16,
    replace_linears,
)
from app.model_files.download import FILES, refuse_other_variants, wrong_variant

log = logging.getLogger(__name__)

T3_FILE, S3GEN_FILE = "t3_cfg.safetensors", "s3gen.safetensors"

Module = TypeVar("Module", bound=nn.Module)
Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Models:
    """A checkpoint, loaded: modules in evaluation mode on `device`, float32 but for T3's layers.

    `default_voice` is the one in conds.pt, None without that file. `digest`, in hex, is another
    one whenever a file was replaced. `files`: in which the weights are that did not leave them.
    """

    t3: T3
    s3gen: S3Gen
    voice_encoder: VoiceEncoder
    tokenizer: EnTokenizer
    default_voice: ChatterboxVoice | None
    device: torch.device
    digest: str
    files: tuple[WeightsFile, ...]

    def let_files_go(self) -> None:
        """Take no memory for weights that were only used to get here."""
        for file in self.files:
            file.let_go()


def load(
    model_path: Path,
    device: str,
    t3_dtype: T3Dtype = "float32",
    s3gen_dtype: S3GenDtype = "float32",
    packed: bool = False,
) -> Models:
    """The model in the folder `model_path`. Raises StartupError, naming file and reason.

    "auto" is bfloat16 on a GPU that computes in it, else float32. `packed`, on a CPU: what takes
    the most time is left to oneDNN, see `linear`.
    """
    refuse_other_variants(model_path)
    _refuse_unknown_to(device, t3_dtype, s3gen_dtype)
    usual: S3GenDtype = "bfloat16" if device == "cuda" and _has_bfloat16() else "float32"
    t3_dtype = usual if t3_dtype == "auto" else t3_dtype
    s3gen_dtype = usual if s3gen_dtype == "auto" else s3gen_dtype
    if device == "cuda" and t3_dtype == s3gen_dtype == "bfloat16":
        torch.set_float32_matmul_precision("high")  # the products that are left
    checkpoint = _Checkpoint(model_path, device)
    return Models(
        t3=_t3(checkpoint, t3_dtype, packed),
        s3gen=_s3gen(checkpoint, s3gen_dtype, packed),
        voice_encoder=checkpoint.load(VoiceEncoder, "ve.safetensors"),
        tokenizer=_tokenizer(model_path / "tokenizer.json"),
        default_voice=_default_voice(model_path / "conds.pt", device),
        device=torch.device(device),
        digest=_digest(model_path),
        files=tuple(checkpoint.files),
    )


def _refuse_unknown_to(device: str, t3_dtype: T3Dtype, s3gen_dtype: S3GenDtype) -> None:
    if t3_dtype == "int8" and device != "cpu":
        raise StartupError("TTS_T3_DTYPE=int8 is for the CPU: on a GPU use float32 or bfloat16")
    for name, dtype in (("TTS_T3_DTYPE", t3_dtype), ("TTS_S3GEN_DTYPE", s3gen_dtype)):
        if dtype == "bfloat16" and device == "cuda" and not _has_bfloat16():
            raise StartupError(f"{name}=bfloat16 is not for this GPU: use float32")


def _has_bfloat16() -> bool:
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def _t3(checkpoint: "_Checkpoint", dtype: T3Dtype, packed: bool) -> T3:
    t3, path = checkpoint.load(T3, T3_FILE), checkpoint.folder / T3_FILE
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


def _s3gen(checkpoint: "_Checkpoint", dtype: S3GenDtype, packed: bool) -> S3Gen:
    """In bfloat16: the estimator's blocks, where nearly all the work is."""
    s3gen, path = checkpoint.load(S3Gen, S3GEN_FILE), checkpoint.folder / S3GEN_FILE
    if dtype == "bfloat16":
        estimator = s3gen.flow.decoder.estimator
        for blocks in (estimator.down_blocks, estimator.mid_blocks, estimator.up_blocks):
            convert_linears_to_bf16(blocks, ("to_q", "to_k", "to_v"))
    elif packed:
        replace_linears(s3gen, PackedLinear, path, "flow.")
    if checkpoint.files:
        let_go_one_by_one(s3gen.tokenizer.encoder.blocks, path, "tokenizer.encoder.blocks.")
    return s3gen


# --- Which model it is ------------------------------------------------------------------------


_VOCABULARIES = {2454: "Chatterbox Multilingual", 50_276: "Chatterbox Turbo"}  # of T3's text


def _variant(weights: Weights) -> str | None:
    """The variant that these weights are of, if they are of a known one."""
    if any(".time_embed_mixer." in name for name in weights):
        return "Chatterbox Turbo"
    text = weights.get("text_emb.weight")
    return None if text is None else _VOCABULARIES.get(len(text))


# --- Weights ----------------------------------------------------------------------------------


class _Checkpoint:
    """The weights in a `folder`. On a CPU they stay in their `files` until they are used."""

    def __init__(self, folder: Path, device: str) -> None:
        self.folder = folder
        self.files: list[WeightsFile] = []
        self._device = device

    def load(self, kind: Callable[[], Module], name: str) -> Module:
        """A module of this kind, with the weights in the file of this name."""
        path = self.folder / name
        weights = self._read(path)
        with _NoRandomFilling():
            module = kind()
        _compare(module, weights, path)
        module.load_state_dict(weights, strict=False, assign=True)
        return module.to(self._device, torch.float32).eval().requires_grad_(False)

    def _read(self, path: Path) -> Weights:
        try:
            weights = load_file(path, device=self._device)
        except SafetensorError as damage:
            raise StartupError(f"{path} is damaged or cut off: {damage}") from damage
        except OSError as fault:
            raise _unreadable(path, fault) from fault
        if self._device != "cpu":
            return weights
        file = WeightsFile(path)
        self.files.append(file)
        mapped = file.tensors()
        return {name: mapped[name] if name in mapped else weights[name].clone() for name in weights}


class _NoRandomFilling(TorchFunctionMode):
    """Inside, new parameters keep what was in their memory: their values are on the way.

    What a constructor computes (windows, rotary frequencies) comes out right, which it would not
    on the meta device.
    """

    FILLERS = frozenset({"normal_", "uniform_", "kaiming_normal_", "kaiming_uniform_"})

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.__name__ in self.FILLERS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def _compare(module: nn.Module, weights: Weights, path: Path) -> None:
    """Raises StartupError unless the file has every tensor of the module, in its shape."""
    expected = module.state_dict()
    computed = getattr(module, "ignore_state_dict_missing", ())
    absent = sorted(expected.keys() - weights.keys() - set(computed))
    surplus = sorted(weights.keys() - expected.keys())
    odd = [
        name for name in weights if name in expected and weights[name].shape != expected[name].shape
    ]
    if variant := _variant(weights):
        raise wrong_variant(path, variant)
    if absent:
        raise StartupError(f"{path} lacks {len(absent)} tensors, {absent[0]} for one")
    if odd:
        found, wanted = (list(tensors[odd[0]].shape) for tensors in (weights, expected))
        raise StartupError(f"{path} does not fit: {odd[0]} has shape {found}, not {wanted}")
    if surplus:
        log.warning("%s: %d surplus tensors, %s for one", path, len(surplus), surplus[0])


# --- The other files --------------------------------------------------------------------------


def _tokenizer(path: Path) -> EnTokenizer:
    config = T3Config.english_only()
    try:
        path.open().close()  # the tokenizer has one exception for everything
        tokenizer = EnTokenizer(str(path))
    except OSError as fault:
        raise _unreadable(path, fault) from fault
    except Exception as damage:
        raise StartupError(f"{path} is not a tokenizer: {damage}") from damage
    vocabulary = tokenizer.tokenizer.get_vocab()
    if (
        vocabulary["[START]"] != config.start_text_token
        or vocabulary["[STOP]"] != config.stop_text_token
        or max(vocabulary.values()) >= config.text_tokens_dict_size
    ):
        raise StartupError(f"{path} is another model's tokenizer: it has {len(vocabulary)} tokens")
    return tokenizer


_BROKEN_PICKLE = (
    pickle.UnpicklingError,
    *(EOFError, RuntimeError),  # torch's, for what is no archive
    *(LookupError, TypeError, ValueError),  # for one that holds something else
)


def _default_voice(path: Path, device: str) -> ChatterboxVoice | None:
    if not path.exists():
        return None
    try:
        content = BytesIO(path.read_bytes())
    except OSError as fault:
        raise _unreadable(path, fault) from fault
    try:
        return saved_voice(torch.load(content, map_location=device, weights_only=True))
    except _BROKEN_PICKLE as damage:
        raise StartupError(f"{path} is not a voice: {damage}") from damage


def _unreadable(path: Path, fault: OSError) -> StartupError:
    return StartupError(f"cannot read {path}: {fault.strerror or fault}")


def _digest(folder: Path) -> str:
    stats = [(name, (folder / name).stat()) for name in FILES if (folder / name).exists()]
    files = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    return hashlib.sha256(repr(files).encode()).hexdigest()
