"""Two models at once: each speaks what it speaks alone, whatever the other does."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing

import msgspec
import pytest
import pytest_asyncio
import soundfile

from app.core.engine_config import EngineConfig
from app.core.params import SynthesisParams
from app.engines.base import TextChunk
from app.engines.chatterbox.variants import VARIANTS
from tests.support.api import error_code
from tests.support.service import ROOT
from tests.support.tiny_chatterbox import TinyChatterbox, TinyTurbo

JOBS = [
    ("chatterbox", TextChunk("Hello you.", 0), 1),
    ("turbo", TextChunk("Hello me. [laugh]", 0), 1),
    ("chatterbox", TextChunk("Hello all.", 1), 2),
    ("turbo", TextChunk("Hello you.", 1), 2),
]

LENGTH = 30


@pytest.fixture(scope="module")
def folder(checkpoint_of, tmp_path_factory):
    """As `MODEL_PATH` may be: the original's files, and Turbo's in a folder."""
    folder = tmp_path_factory.mktemp("models")
    for path in checkpoint_of("chatterbox").iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "turbo").symlink_to(checkpoint_of("turbo"))
    return folder


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engines(folder):
    config = EngineConfig("cpu", 1, str(folder), slots=2, watermark=False)
    engines = {"chatterbox": TinyChatterbox(config), "turbo": TinyTurbo(config)}
    yield engines
    for engine in engines.values():
        await engine.close()


async def tokens_of(engines, job, begun=None, most=LENGTH):
    """T3's tokens of a job, which is closed after `most`; `begun` is set with its first slice."""
    model, chunk, seed = job
    engine, defaults = engines[model], VARIANTS[model].defaults
    params = msgspec.structs.replace(
        SynthesisParams(seed=seed, audio_tokens_per_slice=10), **defaults
    )
    tokens = []
    async with aclosing(engine.speech_tokens(chunk, engine.default_voice, params)) as slices:
        async for piece in slices:
            tokens += piece.tokens
            if begun:
                begun.set()
            if len(tokens) >= most:
                break
    return tokens


@pytest.mark.asyncio(loop_scope="module")
async def test_tokens_of_four_jobs_that_join_and_leave_are_those_of_each_alone(engines):
    """In one process, as the two models share their interpreter and torch's global state."""
    alone = [await tokens_of(engines, job) for job in JOBS]
    assert len({tuple(tokens) for tokens in alone}) == len(JOBS)
    assert {len(tokens) for tokens in alone} == {LENGTH}

    running = []
    for number, job in enumerate(JOBS):
        begun = asyncio.Event()
        most = 20 if number == 1 else LENGTH
        running.append(asyncio.create_task(tokens_of(engines, job, begun, most)))
        await begun.wait()
    together = await asyncio.gather(*running)

    together[1] += alone[1][20:]
    assert together == alone


@pytest.mark.heavy
@pytest.mark.timeout(300)
def test_audio_of_two_worker_processes_is_that_of_each_alone(start, folder):
    module = "tests.support.tiny_chatterbox"
    service = start(
        MODEL=f"{module}:TinyChatterbox,{module}:TinyTurbo",
        MODEL_PATH=folder,
        CONCURRENT_REQUESTS_PER_WORKER=2,
        WATERMARK=False,
        OMP_NUM_THREADS=1,
    )
    service.wait_until(service.all_ready, 120)

    def spoken(job):
        model, chunk, seed = job
        body = {"text": chunk.text, "seed": seed, "format": "raw_pcm", "model": model}
        if model == "turbo":
            body |= {"model": "chatterbox-turbo"}
        with service.client() as client:
            return client.post("/tts/generate", json=body).raise_for_status().content

    alone = [spoken(job) for job in JOBS]
    assert len(set(alone)) == len(JOBS)
    with ThreadPoolExecutor(len(JOBS)) as threads:
        for _ in range(3):
            assert list(threads.map(spoken, JOBS)) == alone

    short = soundfile.read(ROOT / "preloaded-voices" / "austen.wav")[0][: 4 * 16_000]
    soundfile.write(service.folder / "short.wav", short, 16_000)
    with service.client() as client, (service.folder / "short.wav").open("rb") as file:
        client.post("/voices", files={"file": ("short.wav", file)}).raise_for_status()
        body = {"text": "Hello.", "voice_id": "short.wav"}
        client.post("/tts/generate", json=body).raise_for_status()
        refusal = client.post("/tts/generate", json=body | {"model": "chatterbox-turbo"})
    assert error_code(refusal, 422) == "unusable_audio"
    said = refusal.json()["error"]["message"]
    assert "Chatterbox Turbo needs a voice of at least 5 s, and this one has 4.0 s" in said
