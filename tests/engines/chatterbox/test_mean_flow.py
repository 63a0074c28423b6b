"""The original with the mean-flow S3Gen of Turbo in the place of its own: TTS_S3GEN=meanflow."""

import numpy as np
import pytest
import pytest_asyncio
import torch

from app.core.audio import SAMPLES_PER_TOKEN
from app.core.engine_config import EngineConfig, ModelFiles
from app.core.errors import StartupError
from app.core.params import SynthesisParams
from app.engines.base import RecordedChunk, SpeechSlice, TextChunk
from app.engines.chatterbox.s3gen.flow import Flow, FlowInput
from app.engines.chatterbox.s3gen.noise import Noise, NoiseStream
from app.engines.chatterbox.variants import ENGLISH, MULTILINGUAL, TURBO, VARIANTS, spec_of
from tests.support.speech import (
    CPU,
    decibels,
    mel_error,
    upstreams_audio,
    upstreams_mel,
)
from tests.support.tiny_chatterbox import TinyChatterbox

PARAMS = SynthesisParams(seed=1)
TEXT = TextChunk("Hello you.", 0)
NOISE = Noise(1, 0, CPU)


@pytest.fixture(scope="module")
def folder(checkpoint_of, tmp_path_factory):
    """The original's files, but for its S3Gen, and Turbo's S3Gen."""
    folder = tmp_path_factory.mktemp("mean-flow")
    own = checkpoint_of("chatterbox")
    for path in [own / name for name in ENGLISH.manifest.files if name != ENGLISH.manifest.s3gen]:
        (folder / path.name).symlink_to(path)
    (folder / TURBO.manifest.s3gen).symlink_to(checkpoint_of("turbo") / TURBO.manifest.s3gen)
    return folder


def new_engine(folder):
    files = ModelFiles(mean_flow=True)
    return TinyChatterbox(EngineConfig("cpu", 1, str(folder), watermark=False, files=files))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(folder):
    engine = new_engine(folder)
    yield engine
    await engine.close()


async def tokens_of(slices):
    return [token async for piece in slices for token in piece.tokens]


async def audio_of(engine, tokens):
    decoder = engine.new_decoder(engine.default_voice, PARAMS)
    return torch.from_numpy(await decoder.decode(SpeechSlice(tokens, last=True)))


@pytest.fixture(scope="module")
def expected_audio(engine, upstream_of):
    """The package's audio of tokens, with its `S3Gen(meanflow=True)` and the original's voice."""
    prompt = engine.default_voice.s3gen
    upstream = upstream_of("turbo").s3gen
    return lambda tokens: upstreams_audio(upstream, torch.tensor(tokens), prompt, NOISE)


@pytest.mark.asyncio(loop_scope="module")
async def test_mel_and_audio_equal_those_of_the_packages_mean_flow(
    engine, models, upstream_of, expected_audio
):
    """With speech tokens of the original's T3, which do not change."""
    tokens = await tokens_of(engine.speech_tokens(TEXT, engine.default_voice, PARAMS))
    assert len(tokens) > 25
    audio, expected = await audio_of(engine, tokens), expected_audio(tokens)
    assert len(audio) == SAMPLES_PER_TOKEN * len(tokens)
    scale = expected_audio(tokens[::-1]) - expected
    assert decibels(audio - expected, scale) < -60

    prompt, given = engine.default_voice.s3gen, torch.tensor(tokens)
    frames = 2 * (prompt.prompt_token.shape[1] + len(tokens))
    item = FlowInput(given, prompt, NOISE.frames(NoiseStream.FLOW, 0, frames, 80))
    mel = upstreams_mel(upstream_of("turbo").s3gen, given, prompt, NOISE)
    for loaded, near in ((engine._models, True), (models, False)):
        with torch.inference_mode():
            [own] = Flow(loaded.s3gen.flow, loaded.spec.flow).solve([item], lambda: None)
        assert (mel_error(own, mel) < 1e-4) == near


@pytest.mark.heavy
@pytest.mark.asyncio(loop_scope="module")
async def test_tokens_are_those_of_the_original(engine, tiny_checkpoint):
    original = TinyChatterbox(EngineConfig("cpu", 1, str(tiny_checkpoint), watermark=False))
    both = []
    for each in (engine, original):
        both.append(await tokens_of(each.speech_tokens(TEXT, engine.default_voice, PARAMS)))
    await original.close()
    assert both[0] == both[1]


@pytest.mark.heavy
@pytest.mark.asyncio(loop_scope="module")
async def test_recording_is_converted_with_it(engine, expected_audio):
    speech = np.sin(np.arange(32_000, dtype=np.float32) ** 1.5 / 900)
    tokens = await tokens_of(engine.recorded_tokens(RecordedChunk(0, speech, 16_000), PARAMS))
    assert len(tokens) == 50
    expected = expected_audio(tokens)
    scale = expected_audio(tokens[::-1]) - expected
    assert decibels(await audio_of(engine, tokens) - expected, scale) < -60


def test_only_the_flow_and_its_file_change():
    for name, own in VARIANTS.items():
        spec = spec_of(name, ModelFiles(mean_flow=True))
        assert (spec.t3, spec.prompt, spec.converts_speech) == (
            own.t3,
            own.prompt,
            own.converts_speech,
        )
        assert spec.flow == TURBO.flow
        assert spec.manifest.s3gen == TURBO.manifest.s3gen
        assert (spec == own) == (own.flow == TURBO.flow)
    with_own_t3 = spec_of("multilingual", ModelFiles("t3_es.safetensors", "s3gen_v3.pt", True))
    assert with_own_t3.manifest.t3 == "t3_es.safetensors"
    assert MULTILINGUAL.manifest.s3gen not in with_own_t3.manifest.files


def test_guided_s3gen_in_its_place_is_named(folder, tmp_path, checkpoint_of):
    for path in folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    wrong = tmp_path / TURBO.manifest.s3gen
    wrong.unlink()
    wrong.symlink_to(checkpoint_of("chatterbox") / ENGLISH.manifest.s3gen)
    with pytest.raises(StartupError, match=r"s3gen_meanflow.safetensors .*time_embed_mixer"):
        new_engine(tmp_path)
