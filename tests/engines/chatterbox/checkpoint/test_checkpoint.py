"""In the random checkpoint every input of every part influences the output."""

from typing import Any

import pytest
import torch
from chatterbox import ChatterboxTTS
from torch import Tensor

from app.bench.checkpoint import make_checkpoint, tiny_sizes
from app.engines.chatterbox.checkpoint.loader import load
from app.engines.chatterbox.variants import TURBO, VARIANTS
from app.model_files.manifest import ENGLISH

TEXTS = ("It is a truth universally acknowledged.", "However little known the feelings of a man.")


def speak(tts: ChatterboxTTS, text: str, **options: Any) -> Tensor:
    """Speech tokens, including the stop token, from upstream's own loop."""
    text_tokens = tts.tokenizer.text_to_tokens(text).repeat(2, 1)
    text_tokens = torch.nn.functional.pad(text_tokens, (1, 0), value=tts.t3.hp.start_text_token)
    text_tokens = torch.nn.functional.pad(text_tokens, (0, 1), value=tts.t3.hp.stop_text_token)
    tokens: Tensor = tts.t3.inference(
        t3_cond=tts.conds.t3,
        text_tokens=text_tokens,
        **{"max_new_tokens": 400, "top_p": 1.0} | options,
    )
    return tokens[0]


def mel(tts: ChatterboxTTS, tokens: Tensor, noise: int = 0, **reference: Tensor) -> Tensor:
    torch.manual_seed(noise)
    frames: Tensor = tts.s3gen.flow_inference(
        tokens[None], ref_dict=tts.conds.gen | reference, finalize=True
    )
    return frames


def waveform(tts: ChatterboxTTS, frames: Tensor) -> Tensor:
    torch.manual_seed(0)
    audio: Tensor = tts.s3gen.hift_inference(frames)[0]
    return audio


@pytest.fixture(scope="module")
def tokens():
    return torch.randint(6561, (80,), generator=torch.Generator().manual_seed(0))


def test_same_seed_gives_the_same_files(tiny_checkpoint, tmp_path):
    again = make_checkpoint(tmp_path / "again", end_at=50)
    other = make_checkpoint(tmp_path / "other", seed=1, end_at=50)
    for name in ENGLISH.files:
        if name != "conds.pt":
            assert (again / name).read_bytes() == (tiny_checkpoint / name).read_bytes()
    for name in ENGLISH.files[:3]:
        assert (again / name).read_bytes() != (other / name).read_bytes()


@pytest.mark.parametrize(
    "variant", ["turbo", pytest.param("nano", marks=pytest.mark.heavy), "multilingual"]
)
def test_other_variants_are_loaded_by_the_package(checkpoint_of, upstream_of, variant):
    spec, upstream = VARIANTS[variant], upstream_of(variant)
    assert {path.name for path in checkpoint_of(variant).iterdir()} >= set(spec.needed_files)
    assert upstream.t3.text_emb.num_embeddings == spec.t3.text_vocab_size
    assert upstream.s3gen.meanflow == spec.flow.is_mean_flow
    assert upstream.conds.t3.cond_prompt_speech_tokens.shape == (1, spec.prompt.t3_tokens)


def test_turbos_tokenizer_has_the_real_size_and_tags(upstream_of):
    tokenizer = upstream_of("turbo").tokenizer
    assert len(tokenizer) == TURBO.t3.text_vocab_size
    tags = tokenizer("".join(f"[{tag}]" for tag in TURBO.tags)).input_ids
    assert tags == list(range(50_257, 50_276))


@pytest.mark.parametrize("text", TEXTS)
def test_turbos_speech_varies_and_has_a_plausible_length(upstream_of, text):
    turbo = upstream_of("turbo")
    ids = turbo.tokenizer(text, return_tensors="pt").input_ids
    torch.manual_seed(0)
    tokens = turbo.t3.inference_turbo(turbo.conds.t3, ids)[0]
    assert 30 < len(tokens) < 150
    assert len(tokens.unique()) > 15


@pytest.mark.parametrize("text", TEXTS)
def test_speech_has_a_plausible_length(upstream, text):
    torch.manual_seed(0)
    for _ in range(3):
        assert 50 < len(speak(upstream, text)) < 150


def test_without_a_stop_token_speech_does_not_end(tmp_path, upstream):
    with tiny_sizes():
        endless = load(make_checkpoint(tmp_path, end_at=None), "cpu")
    tts = ChatterboxTTS(endless.t3, None, None, upstream.tokenizer, "cpu", upstream.conds)
    assert len(speak(tts, TEXTS[0])) == 400


def test_few_tokens_are_far_likelier_than_the_others(upstream):
    torch.manual_seed(0)
    spoken = speak(upstream, TEXTS[0])[None, :50]
    text = upstream.tokenizer.text_to_tokens(TEXTS[0])
    text = torch.nn.functional.pad(text, (1, 0), value=255)
    text = torch.nn.functional.pad(text, (0, 1), value=0).long()
    with torch.inference_mode():
        logits = upstream.t3(
            t3_cond=upstream.conds.t3,
            text_tokens=text,
            text_token_lens=torch.tensor([text.shape[1]]),
            speech_tokens=spoken,
            speech_token_lens=torch.tensor([50]),
        ).speech_logits
    best = logits.softmax(-1).max(-1).values
    assert best.median() > 0.5
    assert best.quantile(0.2) < 0.8  # sampling still matters


def test_speech_tokens_depend_on_all_inputs(upstream):
    def said(text: str = TEXTS[0], **options: Any) -> list[int]:
        torch.manual_seed(0)
        tokens: list[int] = speak(upstream, text, **options).tolist()
        return tokens

    usual = said()
    assert said() == usual
    assert said(TEXTS[1]) != usual
    assert said(cfg_weight=0.4) != usual
    assert said(repetition_penalty=1.0) != usual
    assert said(temperature=0.7) != usual
    assert sum(token >= 6561 for token in usual) < 10


@pytest.mark.parametrize("variant", ["chatterbox", "turbo"])
@pytest.mark.parametrize("reverse", [False, True])
def test_voiced_and_unvoiced_frames_alternate(upstream_of, variant, tokens, reverse):
    upstream = upstream_of(variant)
    frames = mel(upstream, tokens.flip(0) if reverse else tokens)
    with torch.inference_mode():
        pitch = upstream.s3gen.mel2wav.f0_predictor(frames)[0]
    voiced = pitch > 10
    assert 0.3 < voiced.float().mean() < 0.9
    changes = (voiced[1:] != voiced[:-1]).sum()
    assert len(frames[0, 0]) / 20 < changes < len(frames[0, 0]) / 3  # stretches of 3 to 20 frames
    assert 30 < pitch[voiced].median() < 300


@pytest.mark.parametrize("variant", ["chatterbox", "turbo"])
def test_waveform_depends_on_the_mel(upstream_of, variant, tokens):
    upstream = upstream_of(variant)
    one, other = (waveform(upstream, mel(upstream, t)) for t in (tokens, tokens.flip(0)))
    assert (one - other).std() > 0.1
    assert 0.05 < one.std() < 0.5
    assert (one.abs() >= 0.99).float().mean() < 0.02
    pattern = one[0, : one.shape[1] // 480 * 480].view(-1, 480).mean(0)
    assert pattern.var() < 0.5 * one.var()


def test_vocoder_output_depends_on_mel_and_excitation(upstream, tokens):
    one, other = (mel(upstream, t) for t in (tokens, tokens.flip(0)))
    vocoder = upstream.s3gen.mel2wav
    with torch.inference_mode():
        _, excitation = vocoder.inference(one)
        assert (vocoder.decode(one, excitation) - vocoder.decode(other, excitation)).std() > 0.1
        silent = vocoder.decode(one, torch.zeros_like(excitation))
        assert (vocoder.decode(one, excitation) - silent).std() > 0.1


@pytest.mark.parametrize("variant", ["chatterbox", "turbo"])
def test_mel_depends_on_all_inputs(upstream_of, variant, tokens):
    upstream = upstream_of(variant)
    reference = upstream.conds.gen
    usual = mel(upstream, tokens)
    assert -8 < usual.mean() < -2
    for changed in (
        mel(upstream, tokens.flip(0)),
        mel(upstream, tokens, noise=1),
        mel(upstream, tokens, prompt_feat=reference["prompt_feat"].flip(1)),
        mel(upstream, tokens, prompt_token=reference["prompt_token"].flip(1)),
        mel(upstream, tokens, embedding=reference["embedding"].flip(1)),
    ):
        assert (changed - usual).std() > 0.05 * usual.std()
