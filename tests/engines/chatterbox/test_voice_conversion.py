"""Voice conversion beside the package's own class, `ChatterboxVC`, on the tiny checkpoint."""

import msgspec
import numpy as np
import pytest
import soundfile
import torch
from chatterbox.vc import ChatterboxVC

from app.audio.pauses import split_at_pauses
from app.core.engine_config import EngineConfig, QueueSizes
from app.core.params import SynthesisParams
from app.core.resume_point import ResumePoint
from app.engines.chatterbox.voice_conversion import tokens_of
from app.pipeline import pipeline as pipeline_module
from app.pipeline.pipeline import Pipeline
from tests.support.service import ROOT
from tests.support.tiny_chatterbox import TinyChatterbox

HEAVY = pytest.mark.heavy
BYTES_PER_TOKEN = 2 * 960
RATE = 16_000
AUSTEN = ROOT / "preloaded-voices" / "austen.wav"
PARAMS = SynthesisParams(seed=1, crossfade_duration_milliseconds=100)


@pytest.fixture(scope="module")
def recording():
    """float32 [n] at 16 kHz, not of a whole number of tokens."""
    return soundfile.read(AUSTEN, dtype="float32")[0][:32_500]


@pytest.fixture
def upstreams_tokens(upstream, tmp_path, recording, monkeypatch):
    """What the package's class gives to S3Gen."""
    given = []

    def inference(speech_tokens, ref_dict):
        given.append((speech_tokens, ref_dict))
        return torch.zeros(1, 2400), None

    monkeypatch.setattr(upstream.s3gen, "inference", inference)
    soundfile.write(tmp_path / "said.wav", recording, RATE, subtype="FLOAT")
    ChatterboxVC(upstream.s3gen, "cpu", upstream.conds.gen).generate(tmp_path / "said.wav")
    [(tokens, _)] = given
    return tokens[0].tolist()


def test_speech_tokens_equal_upstreams(models, recording, upstreams_tokens):
    assert tokens_of(models, recording, RATE) == upstreams_tokens
    assert tokens_of(models, recording[::-1].copy(), RATE) != upstreams_tokens


async def convert(engine, recording, **options):
    pieces = []

    async def emit(pcm):
        pieces.append(pcm)

    pipeline = Pipeline(engine, QueueSizes(2, 3))
    params = msgspec.structs.replace(PARAMS, **options.pop("params", {}))
    left = await pipeline.convert(recording, RATE, engine.default_voice, params, emit, **options)
    pipeline.close()
    return b"".join(pieces), left


def new_engine(folder, variant="chatterbox"):
    return TinyChatterbox(EngineConfig("cpu", 1, str(folder), watermark=False, variant=variant))


async def test_audio_is_as_long_as_the_recording_and_stops_after_any_chunk(
    tiny_checkpoint, recording, monkeypatch
):
    monkeypatch.setattr(pipeline_module, "MAX_RECORDED_S", 0.9)
    engine = new_engine(tiny_checkpoint)
    tokens = -(-(len(recording) // 160) // 4)  # of four frames of 10 ms each

    complete, left = await convert(engine, recording)
    assert left is None
    assert len(complete) == tokens * BYTES_PER_TOKEN
    assert np.frombuffer(complete, "<i2").std() > 100

    parts, point = [], ResumePoint()
    while point:
        part, point = await convert(engine, recording, resume_point=point, should_stop=lambda: True)
        parts.append(part)
    assert len(parts) == 3
    assert b"".join(parts) == complete
    other, _ = await convert(engine, recording[:16_000], params={"seed": 2})
    assert other != complete[: len(other)]
    await engine.close()


@pytest.mark.heavy
async def test_multilingual_converts_without_its_trim_at_the_end(checkpoint_of, recording):
    engine = new_engine(checkpoint_of("multilingual"), "multilingual")
    assert engine._spec.t3.end_trim_tokens
    audio, _ = await convert(engine, recording[:16_000])
    await engine.close()
    assert len(audio) == 25 * BYTES_PER_TOKEN


@pytest.mark.parametrize(("overlap", "smooth"), [(2, True), pytest.param(0, False, marks=HEAVY)])
async def test_pieces_are_joined_without_a_hole(tiny_checkpoint, monkeypatch, overlap, smooth):
    """Of speech without a pause; each piece's audio begins with silence and a fade-in."""
    monkeypatch.setattr(pipeline_module, "MAX_RECORDED_S", 0.9)
    monkeypatch.setattr(pipeline_module, "OVERLAP_TOKENS", overlap)
    engine = new_engine(tiny_checkpoint)
    voiced = np.sin(np.cumsum(2 * np.pi * np.linspace(100, 300, 22_400) / RATE))
    speech = (0.5 * voiced).astype(np.float32)
    cut = len(split_at_pauses(speech, RATE, 0.9)[0]) * 3 // 2
    pcm, _ = await convert(engine, speech)
    await engine.close()
    assert len(pcm) == 35 * BYTES_PER_TOKEN
    audio = np.frombuffer(pcm, "<i2").astype(float)
    level = np.sqrt(np.convolve(audio**2, np.ones(240) / 240, "same"))  # of 10 ms
    seam = level[cut - 2 * 960 : cut + 2 * 960]
    assert (seam.min() > 0.5 * np.median(level)) == smooth
