"""The scripted engine without a script: what a fuzzer writes must not be a command by chance."""

from collections.abc import AsyncGenerator

from app.core.params import SynthesisParams
from app.engines.base import SpeechSlice, TextChunk
from tests.support.engines import ScriptedEngine


class ReadingEngine(ScriptedEngine):
    """Makes one token of audio of each word, whatever it says."""

    async def speech_tokens(
        self, chunk: TextChunk, voice: int, params: SynthesisParams
    ) -> AsyncGenerator[SpeechSlice, None]:
        words = chunk.text.split()
        for index in range(len(words)):
            self.steps += 1
            yield SpeechSlice(1, last=index == len(words) - 1)
