from contextlib import contextmanager
from copy import copy
from dataclasses import replace

import msgspec
import pytest
import torch

from app.bench.checkpoint import full_checkpoint
from app.engines.chatterbox.checkpoint.loader import load
from app.engines.chatterbox.s3gen import waveform as waveform_module
from app.engines.chatterbox.s3gen.noise import Noise
from app.engines.chatterbox.s3gen.stream import S3Gen, StreamDecoder
from tests.support.speech import (
    CPU,
    DEFAULTS,
    decibels,
    mel_error,
    own_s3gen,
    speech_tokens,
    upstreams_audio,
    upstreams_mel,
)

SAMPLES_PER_TOKEN = 960
TOKENS = speech_tokens(75)
NO_TOKENS = TOKENS[:0]


@pytest.fixture(scope="module")
def s3gen(tiny_checkpoint):
    return own_s3gen(tiny_checkpoint)


@pytest.fixture
def decoder_for(s3gen, models):
    """`decoder_for(seed=…, chunk_overlap_method=…, …)` with the checkpoint's default voice."""

    def decoder_for(**params):
        changed = msgspec.structs.replace(DEFAULTS, **params)
        return StreamDecoder(s3gen, models.default_voice.s3gen, changed)

    return decoder_for


@pytest.fixture
def mels(s3gen, monkeypatch):
    """All mels solved during the test, in order."""
    solved, solve = [], s3gen.flow.solve

    def recorded(*args):
        solved.extend(mels := solve(*args))
        return mels

    monkeypatch.setattr(s3gen.flow, "solve", recorded)
    return solved


def stream(decoder, tokens, size):
    """The audio of each slice of one text chunk and of its empty last slice."""
    slices = tokens.split(size) if len(tokens) else []
    return [decoder.decode(piece, last=False) for piece in slices] + [
        decoder.decode(NO_TOKENS, last=True)
    ]


# --- Against upstream -----------------------------------------------------------------------------


def test_text_chunk_equals_upstreams(decoder_for, models, upstream):
    prompt, noise = models.default_voice.s3gen, Noise(7, 0, CPU)
    expected, different = (
        upstreams_audio(upstream.s3gen, tokens, prompt, noise)
        for tokens in (TOKENS, TOKENS.flip(0))
    )

    audio = decoder_for(seed=7).decode(TOKENS, last=True)

    assert decibels(audio - expected, different - expected) < -60
    assert decibels(decoder_for(seed=8).decode(TOKENS, True) - expected, different - expected) > -20


def turbo_decoder(s3gen, models, seed):
    params = msgspec.structs.replace(DEFAULTS, seed=seed)
    return StreamDecoder(s3gen, models.default_voice.s3gen, params)


@pytest.fixture(scope="module")
def turbo_s3gen(checkpoint_of):
    return own_s3gen(checkpoint_of("turbo"), "turbo")


@pytest.fixture(scope="module")
def turbo_audio(models_of, upstream_of):
    """Upstream's audio of `TOKENS` and of others."""
    prompt, noise = models_of("turbo").default_voice.s3gen, Noise(7, 0, CPU)
    return [
        upstreams_audio(upstream_of("turbo").s3gen, tokens, prompt, noise)
        for tokens in (TOKENS, TOKENS.flip(0))
    ]


def test_text_chunk_of_turbo_equals_upstreams(turbo_s3gen, models_of, turbo_audio):
    expected, different = turbo_audio

    one, other = (
        turbo_decoder(turbo_s3gen, models_of("turbo"), seed).decode(TOKENS, last=True)
        for seed in (7, 8)
    )

    assert one.shape == (SAMPLES_PER_TOKEN * len(TOKENS),)
    assert decibels(one - expected, different - expected) < -60
    assert decibels(other - expected, different - expected) > -20


def drop_time_mixer(solver, flow):
    solver._mix_times = lambda both: both.chunk(2, dim=1)[0]


def drop_second_draw(solver, flow):
    solve = flow._solve_one

    def without(item, on_step):
        noise = item.noise.clone()
        noise[: -item.new_frames] = 0
        return solve(item._replace(noise=noise), on_step)

    flow._solve_one = without


@pytest.mark.parametrize("mutate", [drop_time_mixer, drop_second_draw])
def test_audio_comparison_of_turbo_detects(turbo_s3gen, models_of, turbo_audio, mutate):
    expected, different = turbo_audio
    flow = copy(turbo_s3gen.flow)
    flow.solver = copy(flow.solver)
    mutate(flow.solver, flow)

    mutated = turbo_decoder(replace(turbo_s3gen, flow=flow), models_of("turbo"), 7)

    audio = mutated.decode(TOKENS, last=True)
    assert decibels(audio - expected, different - expected) > -40


def test_stream_of_turbo_has_960_samples_per_token_and_no_click(turbo_s3gen, models_of):
    with muffled_voice(turbo_s3gen):
        slices = stream(turbo_decoder(turbo_s3gen, models_of("turbo"), 7), TOKENS, 15)
    assert len(torch.cat(slices)) == SAMPLES_PER_TOKEN * len(TOKENS)
    assert loudest_click(slices) < 1


def test_last_solve_of_a_stream_equals_upstreams(decoder_for, models, upstream, mels):
    expected = upstreams_mel(upstream.s3gen, TOKENS, models.default_voice.s3gen, Noise(7, 0, CPU))

    stream(decoder_for(seed=7), TOKENS, 35)

    assert [mel.shape[1] for mel in mels] == [70, 140, 150]
    assert mel_error(mels[-1], expected) < 1e-4


def test_noise_by_position_makes_successive_solves_similar(decoder_for, mels):
    """They are not equal: attention is bidirectional, so every frame depends on later ones."""
    for seed in (1, 2):
        stream(decoder_for(seed=seed), TOKENS, 35)
    first, second, last, *others = mels

    def distance(before, after):
        return float((before - after[:, : before.shape[1]]).abs().mean() / after.std())

    figures = {
        "35 tokens, then 70": distance(first, second),
        "70 tokens, then 75": distance(second, last),
        "another noise": distance(others[0], second),
    }
    for name, figure in figures.items():
        print(f"{name}: {figure:.3f} of the mel's standard deviation")
    assert figures["35 tokens, then 70"] < figures["another noise"] / 2
    assert figures["70 tokens, then 75"] < figures["another noise"] / 5


# --- Lengths, seams, order ------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["full", "zero"])
@pytest.mark.parametrize("fade_ms", [pytest.param(0, marks=pytest.mark.heavy), 500])
@pytest.mark.parametrize("size", [pytest.param(9, marks=pytest.mark.heavy), 35])
def test_every_token_gives_960_samples(decoder_for, method, fade_ms, size):
    decoder = decoder_for(chunk_overlap_method=method, crossfade_duration_milliseconds=fade_ms)

    for tokens in (TOKENS, TOKENS[:1], NO_TOKENS):
        audio = torch.cat(stream(decoder, tokens, size))
        assert audio.shape == (SAMPLES_PER_TOKEN * len(tokens),)
        assert audio.dtype == torch.float32


@contextmanager
def muffled_voice(s3gen):
    """No sound above 1 kHz, so that a click stands out."""
    bias = s3gen.vocoder._hift.conv_post.bias
    before = bias.detach().clone()
    with torch.no_grad():
        bias[:1] += 5
        bias[1:9] -= 8
        yield
        bias.copy_(before)


@pytest.fixture
def muffled(s3gen):
    with muffled_voice(s3gen):
        yield


def loudest_click(slices):
    """The largest jump at a seam over the 99th percentile of jumps inside slices."""
    audio = torch.cat(slices)
    ends = torch.tensor([len(piece) for piece in slices]).cumsum(0)
    seams = ends[(ends > 0) & (ends < len(audio))] - 1
    jumps = audio.diff().abs()
    inside = torch.ones_like(jumps, dtype=torch.bool).index_fill(0, seams, False)
    return float(jumps[seams].max() / jumps[inside].quantile(0.99))


@pytest.mark.usefixtures("muffled")
def test_slices_join_without_a_click(decoder_for):
    assert loudest_click(stream(decoder_for(), TOKENS, 15)) < 1


@pytest.mark.heavy
@pytest.mark.usefixtures("muffled")
def test_click_comparison_detects_a_hard_cut(decoder_for, monkeypatch):
    monkeypatch.setattr(waveform_module, "LOOKAHEAD_FRAMES", 0)

    slices = stream(decoder_for(crossfade_duration_milliseconds=0), TOKENS, 15)
    assert loudest_click(slices) > 1


def test_bounded_context_limits_the_solve(
    tiny_checkpoint, models, mels, s3gen, decoder_for, monkeypatch
):
    """Nothing changes until there are more tokens than the context has."""
    unbounded = torch.cat(stream(decoder_for(), TOKENS, 15))
    assert [mel.shape[1] for mel in mels] == [30, 60, 90, 120, 150]
    mels.clear()
    bounded = replace(s3gen, context_tokens=30)
    decoder = StreamDecoder(bounded, models.default_voice.s3gen, DEFAULTS)

    pieces = stream(decoder, TOKENS, 15)

    assert [mel.shape[1] for mel in mels] == [30, 60, 90, 90, 90]
    audio = torch.cat(pieces)
    same = sum(len(piece) for piece in pieces[:3])
    assert len(audio) == len(unbounded)
    assert torch.equal(audio[:same], unbounded[:same])
    assert (audio - unbounded)[same:].abs().max() > 0
    assert not audio.isnan().any()


def test_overlap_zero_solves_each_slice_alone(decoder_for, mels):
    first, second, empty = (
        piece.clone() for piece in stream(decoder_for(chunk_overlap_method="zero"), TOKENS[:70], 35)
    )

    assert [len(piece) for piece in (first, second, empty)] == [33_600, 33_600, 0]
    assert [mel.shape[1] for mel in mels] == [70, 70]
    other_start = decoder_for(chunk_overlap_method="zero")
    other_start.decode(TOKENS[:35].flip(0), last=False)
    assert torch.equal(other_start.decode(TOKENS[35:70], last=False), second)


def test_only_the_start_of_a_text_chunk_fades_in(decoder_for):
    for method in ("full", "zero"):
        decoder = decoder_for(chunk_overlap_method=method)
        for _ in range(2):
            audio = torch.cat(stream(decoder, TOKENS[:40], 20))
            assert not audio[:480].any()
            assert audio[480:960].any()
            assert (audio[960:].unfold(0, 480, 480).abs().amax(1) > 0).all()


def test_text_chunk_is_independent_of_the_one_before(decoder_for):
    """It has its own noise, which depends on its index only."""
    chunks = []
    for before in (TOKENS[:30], TOKENS[30:70]):
        decoder = decoder_for()
        first = torch.cat(stream(decoder, before, 20))
        chunks.append(torch.cat(stream(decoder, TOKENS[:30], 20)))

    assert torch.equal(*chunks)
    assert not torch.equal(chunks[0], torch.cat(stream(decoder_for(), TOKENS[:30], 20)))
    assert len(first) == 40 * SAMPLES_PER_TOKEN


def test_audio_depends_on_the_seed(decoder_for):
    one, same, other = (
        torch.cat(stream(decoder_for(seed=seed), TOKENS[:40], 20)) for seed in (5, 5, 6)
    )

    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_streams_are_independent(decoder_for):
    alone = torch.cat(stream(decoder_for(), TOKENS[:40], 20))
    mine, other = decoder_for(), decoder_for(seed=9)

    together = []
    for piece in TOKENS[:40].split(20):
        together.append(mine.decode(piece, last=False))
        other.decode(piece.flip(0), last=False)
    together.append(mine.decode(NO_TOKENS, last=True))

    assert torch.equal(torch.cat(together), alone)


def test_empty_last_slice_is_not_solved(decoder_for, mels):
    decoder = decoder_for()
    decoder.decode(TOKENS[:40], last=False)
    rest = decoder.decode(NO_TOKENS, last=True)

    assert len(mels) == 1
    assert len(rest) > 0


def test_slice_can_be_decoded_again_after_an_error(decoder_for):
    undisturbed = torch.cat(stream(decoder_for(), TOKENS[:40], 20))
    decoder, steps = decoder_for(), []

    def raise_at_the_third():
        steps.append(None)
        if len(steps) == 3:
            raise TimeoutError

    first = decoder.decode(TOKENS[:20], last=False)
    with pytest.raises(TimeoutError):
        decoder.decode(TOKENS[20:40], False, raise_at_the_third)
    assert len(steps) == 3
    again = decoder.decode(TOKENS[20:40], last=False)
    assert torch.equal(torch.cat([first, again, decoder.decode(NO_TOKENS, True)]), undisturbed)


# --- Full size ------------------------------------------------------------------------------------


@pytest.mark.heavy
@pytest.mark.timeout(900)
def test_text_chunk_equals_upstreams_at_full_size():
    models = load(full_checkpoint(), "cpu")
    prompt, noise, tokens = models.default_voice.s3gen, Noise(7, 0, CPU), TOKENS[:35]
    expected, different = (
        upstreams_audio(models.s3gen, tokens, prompt, noise) for tokens in (tokens, tokens.flip(0))
    )

    s3gen = S3Gen.of(models)  # changes upstream's modules
    params = msgspec.structs.replace(DEFAULTS, seed=7)
    audio = StreamDecoder(s3gen, prompt, params).decode(tokens, last=True)

    assert decibels(audio - expected, different - expected) < -60
