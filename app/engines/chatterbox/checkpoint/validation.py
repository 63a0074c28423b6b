"""Checks of a checkpoint's content. Each raises `StartupError`, naming file and reason."""

import logging
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from app.core.errors import StartupError
from app.engines.chatterbox.checkpoint.t3_config import t3_config
from app.engines.chatterbox.conditioning.conditionals import Conditionals
from app.engines.chatterbox.variants import VARIANTS, ModelSpec
from app.model_files.manifest import TITLE_OF_FILE, damaged, refuse_other_variants, wrong_variant
from app.text.languages import LANGUAGES

log = logging.getLogger(__name__)

Weights = dict[str, Tensor]


def check_files(folder: Path, spec: ModelSpec) -> None:
    """Require the files that all languages need; log those that only another variant has.

    Also those of text that differ from the published ones: a tokenizer works with half its files.
    """
    manifest = spec.manifest
    refuse_other_variants(folder, manifest)
    for name in spec.needed_files:
        if not (folder / name).exists():
            default = name == manifest.conditionals
            reason = "it holds the default voice" if default else f"{spec.title} needs it"
            raise StartupError(f"{folder / name} is missing: {reason}")
    for name, title in TITLE_OF_FILE.items():
        if name not in manifest.files and title != spec.title and (folder / name).exists():
            log.warning("%s is of %s: %s does not read it", folder / name, title, spec.title)
    for name in damaged(folder, manifest):
        if name in (manifest.tokenizer, *manifest.extra):
            log.warning("%s of %s is not the published file", folder / name, spec.title)


def check_state_dict(module: nn.Module, weights: Weights, path: Path, spec: ModelSpec) -> None:
    """Require every tensor of `module` in its shape; unexpected ones are only logged."""
    expected = module.state_dict()
    optional = getattr(module, "ignore_state_dict_missing", ())
    missing = sorted(expected.keys() - weights.keys() - set(optional))
    unexpected = sorted(weights.keys() - expected.keys())
    mismatched = [
        name for name in weights if name in expected and weights[name].shape != expected[name].shape
    ]
    owners = _owners(weights, spec)
    if owners and spec.title not in owners:
        raise wrong_variant(path, owners[0], spec.title)
    if missing:
        raise StartupError(
            f"{path} of {spec.title} lacks {len(missing)} tensors, {missing[0]} for one"
        )
    if mismatched:
        name = mismatched[0]
        found, wanted = list(weights[name].shape), list(expected[name].shape)
        raise StartupError(
            f"{path} of {spec.title} does not fit: {name} has shape {found}, not {wanted}"
        )
    if unexpected:
        log.warning("%s: %d unexpected tensors, %s for one", path, len(unexpected), unexpected[0])


def _owners(weights: Weights, expected: ModelSpec) -> list[str]:
    """Titles of the models with weights of these names and shapes; empty if there is none."""
    specs = (expected, *VARIANTS.values())
    if "text_emb.weight" in weights:
        return [spec.title for spec in specs if _fits(weights["text_emb.weight"], spec)]
    if "flow.encoder_proj.weight" in weights:
        mean_flow = any(".time_embed_mixer." in name for name in weights)
        return [spec.title for spec in specs if spec.flow.is_mean_flow == mean_flow]
    return []


def _fits(text_embedding: Tensor, spec: ModelSpec) -> bool:
    config = t3_config(spec.t3)
    return text_embedding.shape == (config.text_tokens_dict_size, config.n_channels)


def check_tokenizer(tokenizer: Any, spec: ModelSpec, path: Path) -> None:
    """Require T3's start and stop tokens, all tags, and no token beyond its text vocabulary.

    Of languages one token will do.
    """
    config = t3_config(spec.t3)
    vocabulary = tokenizer.tokenizer.get_vocab()
    delimiters = {"[START]": config.start_text_token, "[STOP]": config.stop_text_token}
    required = delimiters if spec.t3.text_delimiters else {}
    languages = [code for code in LANGUAGES if f"[{code}]" in vocabulary]
    if (
        any(vocabulary.get(token) != index for token, index in required.items())
        or any(f"[{tag}]" not in vocabulary for tag in spec.tags)
        or (spec.frontend.language_tokens and not languages)
        or max(vocabulary.values()) >= spec.t3.text_vocab_size
    ):
        raise StartupError(
            f"{path} of {spec.title} is another model's tokenizer: it has {len(vocabulary)} tokens"
        )


def check_voice(voice: Conditionals, spec: ModelSpec, path: Path) -> None:
    """Require a prompt that is no longer than those that the model's T3 was trained with."""
    tokens, most = voice.prompt_tokens.shape[1], spec.prompt.t3_tokens
    if tokens > most:
        raise StartupError(
            f"{path} is not of {spec.title}: its prompt has {tokens} tokens, not up to {most}"
        )
