"""One generation: what to ask for, and the file that must come of it, byte for byte."""

from dataclasses import dataclass
from random import Random
from typing import Any

from app.audio.encoder import Encoder
from app.audio.formats import ENCODERS, OPENAI_ENCODERS
from app.audio.tempo import TempoEncoder
from app.bench.engine import DEFAULT_VOICE, expected_pcm
from app.core.audio import SAMPLE_RATE
from app.core.params import SynthesisParams

WORDS = ("river", "sand", "wind", "hill", "plain", "carry", "more", "than", "any", "of", "a", "no")
SLICE_TOKENS = 10


@dataclass(frozen=True)
class Speech:
    """`form` is a name out of `ENCODERS`."""

    text: str
    params: SynthesisParams
    form: str = "raw_pcm"
    stream: bool = True

    @classmethod
    def random(cls, random: Random, letters: int, slows: int = 0, **how: Any) -> "Speech":
        """A text of about so many letters, `slow` among them so many times, not asked before."""
        params = SynthesisParams(
            seed=random.getrandbits(32),
            chunk_overlap_method="zero",
            text_processing_chunk_size=random.randint(40, 150),
            audio_tokens_per_slice=SLICE_TOKENS,
        )
        return cls(_new_text(random, letters, slows), params, **how)

    def asked(self) -> dict[str, Any]:
        """The parameters of the request, for JSON."""
        return {
            "text": self.text,
            "format": self.form,
            "stream": self.stream,
            "seed": self.params.seed,
            "chunk_overlap_method": self.params.chunk_overlap_method,
            "text_processing_chunk_size": self.params.text_processing_chunk_size,
            "audio_tokens_per_slice": self.params.audio_tokens_per_slice,
        }

    def file(self, voice: int = DEFAULT_VOICE) -> bytes:
        """The whole answer. Encodes: for a thread."""
        encoder = self._encoder()
        streamed = encoder.encode(expected_pcm(self.text, self.params, voice)) + encoder.finish()
        return streamed if self.stream else encoder.finalize_file(streamed)

    def _encoder(self) -> Encoder:
        return ENCODERS[self.form](SAMPLE_RATE)


@dataclass(frozen=True)
class OpenAISpeech(Speech):
    """One that a client of OpenAI's API asks for; `form` is a name out of `OPENAI_ENCODERS`."""

    speed: float = 1.0

    def asked(self) -> dict[str, Any]:
        asked = super().asked()
        renamed = {"input": asked.pop("text"), "response_format": asked.pop("format")}
        return asked | renamed | {"speed": self.speed}

    def _encoder(self) -> Encoder:
        encoder = OPENAI_ENCODERS[self.form](SAMPLE_RATE)
        return encoder if self.speed == 1 else TempoEncoder(SAMPLE_RATE, self.speed, encoder)


def _new_text(random: Random, letters: int, slows: int) -> str:
    words = ["slow"] * slows
    while sum(map(len, words)) + len(words) < letters:
        words.append(random.choice(WORDS) + random.choice(("", "", "", ".")))
    random.shuffle(words)
    return " ".join(words)
