import json
import logging
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from chatterbox import ChatterboxTTS
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from app.bench.checkpoint import full_checkpoint, tiny_sizes
from app.core.errors import StartupError
from app.engines.chatterbox.checkpoint.loader import load
from app.engines.chatterbox.checkpoint.mapped_file import load_pickle
from app.engines.chatterbox.checkpoint.models import Models
from app.engines.chatterbox.checkpoint.validation import check_files
from app.engines.chatterbox.runtime.linear import LinearOfConv1D
from app.engines.chatterbox.variants import VARIANTS
from app.text.languages import LANGUAGES

TIME_MIXER = "flow.decoder.estimator.time_embed_mixer.weight"


def tensors(module: nn.Module) -> dict[str, Tensor]:
    """All parameters, buffers (persistent or not) and plain attributes."""
    return {
        f"{path}.{name}": value
        for path, part in module.named_modules()
        for holder in (part._parameters, part._buffers, vars(part))
        for name, value in holder.items()
        if isinstance(value, Tensor)
    }


def differing(models: Models, upstream: ChatterboxTTS) -> list[str]:
    """Names of all tensors that differ."""
    found = []
    for ours, theirs in (
        (models.t3, upstream.t3),
        (models.s3gen, upstream.s3gen),
        (models.voice_encoder, upstream.ve),
    ):
        mine, other = tensors(ours), tensors(theirs)
        for path, part in ours.named_modules():
            if isinstance(part, LinearOfConv1D):
                mine[f"{path}.weight"] = mine[f"{path}.weight"].T
        assert mine.keys() == other.keys()
        assert not any(module.training for module in ours.modules())
        found += [name for name in mine if not torch.equal(mine[name], other[name])]
    return found


RARE = {"nano", "multilingual"}
"""Their classes are those of others; the nightly run compares them."""


@pytest.mark.parametrize(
    "variant",
    [pytest.param(each, marks=[pytest.mark.heavy] * (each in RARE)) for each in VARIANTS],
)
def test_every_tensor_equals_upstreams(models_of, upstream_of, variant):
    models, upstream = models_of(variant), upstream_of(variant)
    assert len(tensors(models.s3gen)) > 1000
    assert differing(models, upstream) == []


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("t3", "tfmr.layers.0.self_attn.q_proj.weight"),
        ("t3", "tfmr.rotary_emb.inv_freq"),
        ("s3gen", ".trim_fade"),
        ("s3gen", "mel2wav.stft_window"),
        ("s3gen", "flow.encoder.embed.pos_enc.pe"),
        ("s3gen", "tokenizer.encoder.freqs_cis"),
        ("s3gen", "tokenizer._mel_filters"),
        ("s3gen", "speaker_encoder.head.bn1.running_var"),
        ("voice_encoder", "lstm.weight_ih_l0"),
    ],
)
def test_comparison_detects_one_changed_number(models, upstream, module, name):
    tensor = tensors(getattr(models, module))[name]
    first = tensor.view(-1)[0].clone()
    try:
        tensor.view(-1)[0] *= 1.001
        tensor.view(-1)[0] += 1e-6
        assert differing(models, upstream) == [name]
    finally:
        tensor.view(-1)[0] = first


def test_outputs_equal_upstreams(models, upstream):
    def outputs(t3: Any, s3gen: Any, voice_encoder: Any) -> list[Tensor]:
        text = torch.tensor([[255, 20, 30, 40, 0]])
        speech = torch.arange(6561, 6601)[None] % 6562
        reference = dict(upstream.conds.gen)
        torch.manual_seed(0)
        with torch.inference_mode():
            logits = t3(
                t3_cond=upstream.conds.t3,
                text_tokens=text,
                text_token_lens=torch.tensor([5]),
                speech_tokens=speech,
                speech_token_lens=torch.tensor([40]),
            ).speech_logits
            audio, _ = s3gen.inference(speech[0, 1:], ref_dict=reference)
            speaker = voice_encoder(torch.rand(2, 160, 40))
        return [logits, audio, speaker]

    ours = outputs(models.t3, models.s3gen, models.voice_encoder)
    theirs = outputs(upstream.t3, upstream.s3gen, upstream.ve)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)


def test_text_tokens_equal_upstreams(models, upstream):
    text = "It is a truth, universally acknowledged…"
    assert models.tokenizer.encode(text) == upstream.tokenizer.encode(text)
    assert len(set(models.tokenizer.encode(text))) > 10


def test_default_voice_is_the_saved_one(models, upstream):
    voice = models.default_voice
    assert voice is not None
    assert torch.equal(voice.speaker_embedding, upstream.conds.t3.speaker_emb)
    assert torch.equal(voice.prompt_tokens, upstream.conds.t3.cond_prompt_speech_tokens)
    for name in ("prompt_token", "prompt_feat", "embedding"):
        assert torch.equal(getattr(voice.s3gen, name), upstream.conds.gen[name])


def test_draws_no_random_numbers(tiny_checkpoint):
    before = torch.get_rng_state()
    with tiny_sizes():
        load(tiny_checkpoint, "cpu")
    assert torch.equal(torch.get_rng_state(), before)


# --- Damaged and unusual folders ------------------------------------------------------------------


@pytest.fixture
def folder(tiny_checkpoint, tmp_path):
    """A copy of the checkpoint that may be changed."""
    return shutil.copytree(tiny_checkpoint, tmp_path / "model")


def tiny(folder: Path) -> Models:
    with tiny_sizes():
        return load(folder, "cpu")


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def garbage(path: Path) -> None:
    path.write_bytes(b"<html>No such model</html>" * 100)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def without_languages(path: Path) -> None:
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    for code in LANGUAGES:
        vocabulary[f"<{code}>"] = vocabulary.pop(f"[{code}]", 0)
    content["added_tokens"] = [
        token for token in content["added_tokens"] if token["content"].strip("[]") not in LANGUAGES
    ]
    path.write_text(json.dumps(content))


def rewritten(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        weights = {name: tensor.clone() for name, tensor in load_file(path).items()}
        change(weights)
        save_file(weights, path)

    return damage


def edited(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return damage


def resaved(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        saved = torch.load(path, weights_only=True)
        change(saved)
        torch.save(saved, path)

    return damage


def renamed(name: str) -> Callable[[Path], None]:
    return lambda path: (path.rename(path.with_name(name)), None)[1]


class Bomb:
    def __reduce__(self) -> Any:
        return os.abort, ()


@pytest.mark.fault(11)
@pytest.mark.parametrize(
    ("name", "damage", "reason"),
    [
        ("ve.safetensors", Path.unlink, "is missing: Chatterbox needs it"),
        ("t3_cfg.safetensors", truncated, "damaged or cut off"),
        ("s3gen.safetensors", garbage, "damaged or cut off"),
        ("ve.safetensors", empty, "damaged or cut off"),
        ("t3_cfg.safetensors", rewritten(lambda w: w.pop("speech_head.weight")), "speech_head"),
        ("s3gen.safetensors", rewritten(lambda w: w.pop("flow.encoder_proj.bias")), "encoder_proj"),
        (
            "ve.safetensors",
            rewritten(lambda w: w.update({"proj.bias": torch.zeros(255)})),
            r"proj.bias has shape \[255\], not \[256\]",
        ),
        ("tokenizer.json", Path.unlink, "is missing: Chatterbox needs it"),
        ("tokenizer.json", garbage, "not a tokenizer"),
        ("tokenizer.json", edited(lambda t: t.pop("model")), "not a tokenizer"),
        (
            "tokenizer.json",
            edited(lambda t: t["model"]["vocab"].update({"[new]": 704})),
            "another model's",
        ),
        ("conds.pt", garbage, "not a voice"),
        ("conds.pt", truncated, "not a voice"),
        ("conds.pt", empty, "not a voice"),
        ("conds.pt", lambda path: torch.save({"t3": {}, "gen": {}}, path), "not a voice"),
        ("conds.pt", lambda path: torch.save(torch.zeros(2), path), "not a voice"),
        ("conds.pt", lambda path: torch.save({"t3": None, "gen": None}, path), "not a voice"),
        ("conds.pt", lambda path: path.write_bytes(pickle.dumps(Bomb(), 2)), "not a voice"),
        (
            "conds.pt",
            resaved(lambda c: c["t3"].update(cond_prompt_speech_tokens=None)),
            "prompt_tokens is not",
        ),
        (
            "conds.pt",
            resaved(lambda c: c["gen"].update(embedding=torch.zeros(1, 80))),
            r"embedding is not a tensor of shape \(1, 192\)",
        ),
    ],
)
def test_damaged_file_is_named_with_the_reason(folder, name, damage, reason):
    damage(folder / name)
    with pytest.raises(StartupError, match=f"{name}.*{reason}"):
        tiny(folder)


@pytest.mark.parametrize(
    ("name", "damage", "reason"),
    [
        (
            "t3_cfg.safetensors",
            renamed("t3_turbo_v1.safetensors"),
            "is of Chatterbox Turbo, not of Chatterbox:",
        ),
        (
            "t3_cfg.safetensors",
            rewritten(lambda w: w.update({"text_emb.weight": torch.zeros(2454, 64)})),
            "is of Chatterbox Multilingual, not of Chatterbox:",
        ),
        (
            "t3_cfg.safetensors",
            rewritten(lambda w: w.update({"text_emb.weight": torch.zeros(50_276, 32)})),
            "is of Chatterbox Nano, not of Chatterbox:",
        ),
        (
            "s3gen.safetensors",
            rewritten(lambda w: w.update({TIME_MIXER: torch.zeros(64, 128)})),
            "is of Chatterbox Turbo, not of Chatterbox:",
        ),
        (
            "conds.pt",
            resaved(lambda c: c["t3"].update(cond_prompt_speech_tokens=torch.zeros(1, 375))),
            r"conds\.pt is not of Chatterbox: its prompt has 375 tokens, not up to 150",
        ),
    ],
)
def test_file_of_another_variant_is_named(folder, name, damage, reason):
    damage(folder / name)
    with pytest.raises(StartupError, match=reason):
        tiny(folder)


@pytest.mark.parametrize(
    ("variant", "name", "damage", "reason"),
    [
        ("turbo", "s3gen_meanflow.safetensors", truncated, "of Chatterbox Turbo is damaged or cut"),
        (
            "turbo",
            "s3gen_meanflow.safetensors",
            rewritten(lambda w: w.pop(TIME_MIXER)),
            "is of Chatterbox, not of Chatterbox Turbo",
        ),
        ("turbo", "t3_turbo_v1.safetensors", Path.unlink, "is missing: Chatterbox Turbo needs it"),
        ("turbo", "merges.txt", Path.unlink, "is missing: Chatterbox Turbo needs it"),
        ("turbo", "vocab.json", truncated, "of Chatterbox Turbo is not a tokenizer"),
        (
            "turbo",
            "t3_turbo_v1.safetensors",
            rewritten(lambda w: w.update({"tfmr.wpe.weight": torch.zeros(8196, 32)})),
            r"of Chatterbox Turbo does not fit: tfmr.wpe.weight has shape \[8196, 32\], not",
        ),
        ("multilingual", "s3gen.pt", truncated, "of Chatterbox Multilingual is damaged or cut off"),
        ("multilingual", "ve.pt", garbage, "of Chatterbox Multilingual is damaged or cut off"),
        ("multilingual", "ve.pt", empty, "of Chatterbox Multilingual is .* cut off: it is empty"),
        (
            "multilingual",
            "ve.pt",
            lambda path: path.write_bytes(pickle.dumps(Bomb(), 2)),
            "of Chatterbox Multilingual is damaged or cut off",
        ),
        (
            "multilingual",
            "grapheme_mtl_merged_expanded_v1.json",
            without_languages,
            "of Chatterbox Multilingual is another model's tokenizer: it has",
        ),
        (
            "multilingual",
            "s3gen.pt",
            resaved(lambda w: w.pop("flow.encoder_proj.bias")),
            "of Chatterbox Multilingual lacks 1 tensors, flow.encoder_proj.bias for one",
        ),
    ],
)
def test_damaged_file_of_a_variant_is_named_with_it(
    checkpoint_of, tmp_path, variant, name, damage, reason
):
    source, path = checkpoint_of(variant), tmp_path / name
    for file in source.iterdir():
        (tmp_path / file.name).symlink_to(file)
    path.unlink()
    shutil.copy(source / name, path)
    damage(path)
    with tiny_sizes(), pytest.raises(StartupError, match=f"{name}.* {reason}"):
        load(tmp_path, "cpu", spec=VARIANTS[variant])


def test_files_of_another_variant_beside_the_models_own_are_logged(folder, caplog):
    (folder / "t3_nano_v1.safetensors").touch()
    with caplog.at_level(logging.WARNING):
        tiny(folder)
    assert (
        "t3_nano_v1.safetensors is of Chatterbox Nano: Chatterbox does not read it" in caplog.text
    )


def test_files_of_text_that_are_not_the_published_ones_are_logged(checkpoint_of, tmp_path, caplog):
    for file in checkpoint_of("turbo").iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "merges.txt").unlink()
    (tmp_path / "merges.txt").write_bytes(b"#version: 0.2")
    check_files(tmp_path, VARIANTS["turbo"])
    assert f"{tmp_path / 'merges.txt'} of Chatterbox Turbo is not the published file" in caplog.text
    assert "t3_turbo" not in caplog.text


def test_older_format_of_pickled_weights_is_read(checkpoint_of, tmp_path):
    """As the first versions of torch saved them, in a list under the name "model"."""
    weights = torch.load(checkpoint_of("multilingual") / "ve.pt", weights_only=True)
    path = tmp_path / "ve.pt"
    torch.save({"model": [weights]}, path, _use_new_zipfile_serialization=False)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in load_pickle(path).items())


@pytest.mark.fault(11)
def test_model_of_another_size_is_rejected(folder):
    with pytest.raises(StartupError, match=r"t3_cfg.*lacks \d+ tensors, tfmr"):
        load(folder, "cpu")


def test_unexpected_tensor_is_logged(folder, caplog):
    rewritten(lambda w: w.update(extra=torch.zeros(1)))(folder / "s3gen.safetensors")
    with caplog.at_level(logging.WARNING):
        tiny(folder)
    assert "1 unexpected tensors, extra for one" in caplog.text


def test_bfloat16_weights_are_converted_to_float32(folder):
    rewritten(lambda w: w.update({n: t.bfloat16() for n, t in w.items()}))(
        folder / "ve.safetensors"
    )
    models = tiny(folder)
    assert {tensor.dtype for tensor in models.voice_encoder.parameters()} == {torch.float32}


def test_rejects_a_folder_without_the_default_voice(folder: Path) -> None:
    (folder / "conds.pt").unlink()
    with pytest.raises(StartupError, match=r"conds\.pt is missing: it holds the default voice"):
        tiny(folder)


def test_replaced_file_changes_the_digest(folder):
    before = tiny(folder).digest
    assert tiny(folder).digest == before
    rewritten(lambda weights: weights["proj.bias"].zero_())(folder / "ve.safetensors")
    assert tiny(folder).digest != before


@pytest.mark.heavy
@pytest.mark.timeout(600)
def test_every_tensor_equals_upstreams_at_full_size():
    checkpoint = full_checkpoint()
    upstream = ChatterboxTTS.from_local(checkpoint, "cpu")
    assert differing(load(checkpoint, "cpu"), upstream) == []


def test_int8_is_rejected_on_a_gpu(tiny_checkpoint):
    with pytest.raises(StartupError, match="TTS_T3_DTYPE=int8 is for the CPU"):
        load(tiny_checkpoint, "cuda", "int8")
