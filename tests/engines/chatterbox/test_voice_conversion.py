"""Voice conversion beside the package's own class, `ChatterboxVC`, on the tiny checkpoint."""

import msgspec
import numpy as np
import pytest
import soundfile
import torch
from chatterbox.vc import ChatterboxVC

from app.core.engine_config import EngineConfig, QueueSizes
from app.core.params import SynthesisParams
from app.core.resume_point import ResumePoint
from app.engines.chatterbox.voice_conversion import tokens_of
from app.pipeline import pipeline as pipeline_module
from app.pipeline.pipeline import Pipeline
from tests.support.service import ROOT
from tests.support.tiny_chatterbox import TinyChatterbox

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


async def test_audio_is_as_long_as_the_recording_and_stops_after_any_chunk(
    tiny_checkpoint, recording, monkeypatch
):
    monkeypatch.setattr(pipeline_module, "MAX_RECORDED_S", 0.9)
    engine = TinyChatterbox(EngineConfig("cpu", 1, str(tiny_checkpoint), watermark=False))
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
