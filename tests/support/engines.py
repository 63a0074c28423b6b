"""An engine scripted by the text of a request, for faults; real workers load it by import path.

    MODEL=tests.support.engines:ScriptedEngine

Each word of the text is one step:

    audio30     30 speech tokens of audio
    sleep0.5    awaits that many seconds
    raise       raises RuntimeError
    mute        raises EmptyText
    die         kills the worker's process
    block       blocks the event loop
    oom         raises OutOfMemory; with a number, such as oom1, only the first time
    broken      the device fails from now on; with a number only in the first worker
    hold1       creates a file of that name where the service runs and waits to be killed;
                continues if the file exists
    other       one token

Even samples encode the seed and odd ones the voice (`expected_pcm`), so that a client can tell
whose audio it has.
"""

import asyncio
import os
import re
import signal
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import numpy as np

from app.core.audio import SAMPLE_RATE, Samples
from app.core.engine_config import EngineConfig
from app.core.errors import DeviceFailed, EmptyText, OutOfMemory
from app.core.params import SynthesisParams
from app.engines.base import SpeechSlice, TextChunk

SAMPLES_PER_TOKEN = 960
OTHER_VOICE = 2000
SILENT = ("sleep", "raise", "mute", "die", "hold", "block", "oom", "broken")
STEP = re.compile(r"(?P<verb>[a-z]+)(?P<amount>[0-9.]*)")


def tokens_of(text: str) -> int:
    """Return the number of speech tokens of a text."""
    return sum(_tokens(word) for word in text.split())


def voice_code(samples: Samples) -> int:
    """Return the number that encodes a voice in the audio."""
    return 1 + len(samples) % 997


def expected_pcm(text: str, seed: int, voice: int = 0) -> bytes:
    """Return the PCM of a text of one chunk, without crossfade or trimming."""
    return _pcm(tokens_of(text), seed, voice).tobytes()


class ScriptedEngine:
    name = "scripted"
    sample_rate = SAMPLE_RATE
    clones_voices = True
    compiled = False
    notice = None
    runaways = 0
    default_voice = 0

    def __init__(self, config: EngineConfig) -> None:
        self.steps = 0
        self.freed = 0
        self._broken = False

    async def prepare_voice(self, samples: Samples, rate: int) -> int:
        return voice_code(samples)

    async def prepare_kept_voice(self, samples: Samples, rate: int, path: Path) -> int:
        code = await self.prepare_voice(samples, rate)
        await asyncio.to_thread(path.write_text, str(code))
        return code

    async def speech_tokens(
        self, chunk: TextChunk, voice: int, params: SynthesisParams
    ) -> AsyncGenerator[SpeechSlice, None]:
        words = chunk.text.split()
        for index, word in enumerate(words):
            self.steps += 1
            step = STEP.match(word)
            match step["verb"] if step else "":
                case "sleep":
                    await asyncio.sleep(float(step["amount"].rstrip(".")))
                case "raise":
                    raise RuntimeError("scripted")
                case "mute":
                    raise EmptyText("scripted: nothing to say", param="text")
                case "die":
                    os.kill(os.getpid(), signal.SIGKILL)
                case "hold":
                    if _create_once(Path(step[0].rstrip("."))):
                        await asyncio.Event().wait()
                case "oom":
                    if _first_time(step):
                        raise OutOfMemory("scripted: no memory")
                case "broken":
                    self._broken |= _first_time(step)
                case "block":
                    time.sleep(3600)  # noqa: ASYNC251 - the event loop is to be held up
            if self._broken:
                raise DeviceFailed("scripted: device-side assert")
            yield SpeechSlice(_tokens(word), last=index == len(words) - 1)

    def new_decoder(
        self, voice: int, params: SynthesisParams, first_chunk: int = 0
    ) -> "ScriptedDecoder":
        return ScriptedDecoder(voice, params.seed)

    def new_watermark(self, state: bytes = b"") -> None:
        pass

    async def warm_up(self) -> None:
        pass

    async def free_memory(self) -> None:
        self.freed += 1

    async def close(self) -> None:
        pass


class ReadingEngine(ScriptedEngine):
    """Makes one token of each word, so that fuzzed text is never a command."""

    async def speech_tokens(
        self, chunk: TextChunk, voice: int, params: SynthesisParams
    ) -> AsyncGenerator[SpeechSlice, None]:
        count = len(chunk.text.split())
        for index in range(count):
            self.steps += 1
            yield SpeechSlice(1, last=index == count - 1)


class OtherEngine(ScriptedEngine):
    """Another model: it describes itself, and adds `OTHER_VOICE` to a voice's code."""

    name = "other"
    languages = {"en": None, "de": None, "ja": "pykakasi is not installed"}  # noqa: RUF012
    tags = ("laugh", "sigh")
    defaults = {"top_p": 0.95, "synthesis_temperature": 0.7}  # noqa: RUF012
    unused = ("min_p", "cfg_guidance_weight")

    def new_decoder(
        self, voice: int, params: SynthesisParams, first_chunk: int = 0
    ) -> "ScriptedDecoder":
        return ScriptedDecoder(voice + OTHER_VOICE, params.seed)


class LoadingEngine(ScriptedEngine):
    """Waits in warm-up for a file `go` in the service's folder."""

    async def warm_up(self) -> None:
        while not await asyncio.to_thread(Path("go").exists):  # noqa: ASYNC110 - a test makes it
            await asyncio.sleep(0.02)


class BrittleEngine(ScriptedEngine):
    """Kills its process on a voice of 8 kHz; its device fails on one of 11,025 Hz."""

    async def prepare_voice(self, samples: Samples, rate: int) -> int:
        if rate == 8000:
            os.kill(os.getpid(), signal.SIGKILL)
        if rate == 11_025:
            self._broken = True
            raise DeviceFailed("scripted: device-side assert")
        return await super().prepare_voice(samples, rate)


class NoteworthyEngine(ScriptedEngine):
    """Is compiled in all workers but the first."""

    def __init__(self, config: EngineConfig) -> None:
        super().__init__(config)
        self.runaways = 3
        self.compiled = not _create_once(Path("not-compiled"))
        self.notice = None if self.compiled else "not compiled"


class ScriptedDecoder:
    def __init__(self, voice: int, seed: int) -> None:
        self._voice = voice
        self._seed = seed

    async def decode(self, piece: SpeechSlice) -> Samples:
        return _pcm(piece.tokens, self._seed, self._voice).astype(np.float32) / 32767


class NumberlessDecoder(ScriptedDecoder):
    """Decodes every token to NaN."""

    async def decode(self, piece: SpeechSlice) -> Samples:
        return await super().decode(piece) * np.float32("nan")


def _first_time(step: re.Match[str]) -> bool:
    """Return True always for a word without a number."""
    return not step["amount"].rstrip(".") or _create_once(Path(step[0].rstrip(".")))


def _create_once(path: Path) -> bool:
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _tokens(word: str) -> int:
    step = STEP.match(word)
    if step and step["verb"] == "audio":
        return int(step["amount"].rstrip("."))
    return 0 if step and step["verb"] in SILENT else 1


def _pcm(tokens: int, seed: int, voice: int) -> np.ndarray:
    pcm = np.empty(tokens * SAMPLES_PER_TOKEN, "<i2")
    pcm[0::2] = 1 + seed % 9973
    pcm[1::2] = 10_000 + voice
    return pcm
