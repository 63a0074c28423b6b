"""What the engine says in a real pipeline is what a client works out by itself."""

from pathlib import Path

import msgspec
import pytest

from app.audio.sandbox import decode_file, load_decoded
from app.bench.engine import SignalEngine, expected_pcm, voice_code
from app.bench.soak.voices import voice_file
from app.core.engine_config import EngineConfig, QueueSizes
from app.core.params import SynthesisParams
from app.pipeline.pipeline import Pipeline

TEXT = "More sand than wind. The river carries slow hills of it over the plain. No more than any."
ASKED = SynthesisParams(
    chunk_overlap_method="zero", text_processing_chunk_size=40, audio_tokens_per_slice=7, seed=5
)


async def spoken(text: str, params: SynthesisParams, voice: int) -> bytes:
    engine, said = SignalEngine(EngineConfig("cpu", 1, "")), bytearray()

    async def emit(pcm: bytes) -> None:
        said.extend(pcm)

    pipeline = Pipeline(engine, QueueSizes(2, 3))
    await pipeline.run(text, voice, params, emit)
    pipeline.close()
    return bytes(said)


@pytest.mark.parametrize("voice", [0, 77])
async def test_it_says_what_is_expected_in_several_chunks(voice: int) -> None:
    assert await spoken(TEXT, ASKED, voice) == expected_pcm(TEXT, ASKED, voice)


def test_text_seed_and_voice_are_heard() -> None:
    other_seed = msgspec.structs.replace(ASKED, seed=6)
    other_text = TEXT.replace("river", "rivet")
    said = {
        expected_pcm(TEXT, ASKED),
        expected_pcm(TEXT, ASKED, voice=1),
        expected_pcm(TEXT, other_seed),
        expected_pcm(other_text, ASKED),
    }
    assert len(said) == 4


async def test_a_client_knows_the_voice_that_its_file_becomes(tmp_path: Path) -> None:
    content, code = voice_file(3)
    (tmp_path / "voice.wav").write_bytes(content)
    await decode_file(tmp_path / "voice.wav", tmp_path / "decoded")
    samples, _ = load_decoded(tmp_path / "decoded")
    assert voice_code(samples) == code != voice_file(4)[1]
