"""Checks of a checkpoint's content. Each raises `StartupError`, naming file and reason."""

import logging
from pathlib import Path

from chatterbox.models.t3.modules.t3_config import T3Config
from chatterbox.models.tokenizers import EnTokenizer
from torch import Tensor, nn

from app.core.errors import StartupError
from app.engines.chatterbox.variants import UNSUPPORTED_TEXT_VOCABULARIES, ModelSpec
from app.model_files.manifest import wrong_variant

log = logging.getLogger(__name__)

Weights = dict[str, Tensor]


def check_state_dict(module: nn.Module, weights: Weights, path: Path) -> None:
    """Require every tensor of `module` in its shape; unexpected ones are only logged."""
    expected = module.state_dict()
    optional = getattr(module, "ignore_state_dict_missing", ())
    missing = sorted(expected.keys() - weights.keys() - set(optional))
    unexpected = sorted(weights.keys() - expected.keys())
    mismatched = [
        name for name in weights if name in expected and weights[name].shape != expected[name].shape
    ]
    if variant := _other_variant(weights, unexpected, mismatched):
        raise wrong_variant(path, variant)
    if missing:
        raise StartupError(f"{path} lacks {len(missing)} tensors, {missing[0]} for one")
    if mismatched:
        name = mismatched[0]
        found, wanted = list(weights[name].shape), list(expected[name].shape)
        raise StartupError(f"{path} does not fit: {name} has shape {found}, not {wanted}")
    if unexpected:
        log.warning("%s: %d unexpected tensors, %s for one", path, len(unexpected), unexpected[0])


def _other_variant(weights: Weights, unexpected: list[str], mismatched: list[str]) -> str | None:
    if any(".time_embed_mixer." in name for name in unexpected):
        return "Chatterbox Turbo"
    if "text_emb.weight" in mismatched:
        return UNSUPPORTED_TEXT_VOCABULARIES.get(len(weights["text_emb.weight"]))
    return None


def check_tokenizer(tokenizer: EnTokenizer, spec: ModelSpec, path: Path) -> None:
    """Require T3's start and stop tokens, and no token beyond its text vocabulary."""
    config = T3Config(text_tokens_dict_size=spec.t3.text_vocab_size)
    vocabulary = tokenizer.tokenizer.get_vocab()
    if (
        vocabulary["[START]"] != config.start_text_token
        or vocabulary["[STOP]"] != config.stop_text_token
        or max(vocabulary.values()) >= spec.t3.text_vocab_size
    ):
        raise StartupError(f"{path} is another model's tokenizer: it has {len(vocabulary)} tokens")
