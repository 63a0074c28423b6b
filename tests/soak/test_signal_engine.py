"""The signal engine's audio in a real pipeline equals what a client computes."""

from pathlib import Path

import msgspec
import pytest

from app.audio.sandbox import decode_file, load_decoded
from app.core.engine_config import EngineConfig, QueueSizes
from app.core.params import SynthesisParams
from app.pipeline.pipeline import Pipeline
from tests.soak.voices import voice_file
from tests.support.signal_engine import SignalEngine, expected_pcm, voice_code

TEXT = "More sand than wind. The river carries slow hills of it over the plain. No more than any."
PARAMS = SynthesisParams(
    chunk_overlap_method="zero", text_processing_chunk_size=40, audio_tokens_per_slice=7, seed=5
)


@pytest.mark.parametrize("voice", [0, 77])
async def test_audio_of_several_chunks_is_as_expected(voice: int) -> None:
    engine, received = SignalEngine(EngineConfig("cpu", 1, "")), bytearray()

    async def emit(pcm: bytes) -> None:
        received.extend(pcm)

    pipeline = Pipeline(engine, QueueSizes(2, 3))
    await pipeline.run(TEXT, voice, PARAMS, emit)
    pipeline.close()
    assert bytes(received) == expected_pcm(TEXT, PARAMS, voice)


def test_audio_depends_on_text_seed_and_voice() -> None:
    results = {
        expected_pcm(TEXT, PARAMS),
        expected_pcm(TEXT, PARAMS, voice=1),
        expected_pcm(TEXT, msgspec.structs.replace(PARAMS, seed=6)),
        expected_pcm(TEXT.replace("river", "rivet"), PARAMS),
    }
    assert len(results) == 4


async def test_code_of_a_voice_file_is_the_engines(tmp_path: Path) -> None:
    content, code = voice_file(3)
    (tmp_path / "voice.wav").write_bytes(content)
    await decode_file(tmp_path / "voice.wav", tmp_path / "decoded")
    samples, _ = load_decoded(tmp_path / "decoded")
    assert voice_code(samples) == code != voice_file(4)[1]
