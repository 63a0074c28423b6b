"""A speech request of a soak, and the exact bytes of its response."""

from dataclasses import dataclass
from random import Random
from typing import Any

from app.audio.encoder import Encoder
from app.audio.formats import ENCODERS, OPENAI_ENCODERS
from app.audio.tempo import TempoEncoder
from app.core.audio import SAMPLE_RATE
from app.core.params import SynthesisParams
from tests.support.signal_engine import DEFAULT_VOICE, expected_pcm

WORDS = ("river", "sand", "wind", "hill", "plain", "carry", "more", "than", "any", "of", "a", "no")
SLICE_TOKENS = 10


@dataclass(frozen=True)
class Speech:
    """`form` is a key of `ENCODERS`."""

    text: str
    params: SynthesisParams
    form: str = "raw_pcm"
    stream: bool = True

    @classmethod
    def random(cls, random: Random, letters: int, slows: int = 0, **options: Any) -> "Speech":
        """Make a new text of about `letters` letters that contains `slow` `slows` times."""
        params = SynthesisParams(
            seed=random.getrandbits(32),
            chunk_overlap_method="zero",
            text_processing_chunk_size=random.randint(40, 150),
            audio_tokens_per_slice=SLICE_TOKENS,
        )
        return cls(_random_text(random, letters, slows), params, **options)

    def as_dict(self) -> dict[str, Any]:
        """Return the parameters of the request."""
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
        """Encode the complete response; blocks."""
        encoder = self._encoder()
        streamed = encoder.encode(expected_pcm(self.text, self.params, voice)) + encoder.finish()
        return streamed if self.stream else encoder.finalize_file(streamed)

    def _encoder(self) -> Encoder:
        return ENCODERS[self.form](SAMPLE_RATE)


@dataclass(frozen=True)
class OpenAISpeech(Speech):
    """A request to the OpenAI API; `form` is a key of `OPENAI_ENCODERS`."""

    speed: float = 1.0

    def as_dict(self) -> dict[str, Any]:
        params = super().as_dict()
        renamed = {"input": params.pop("text"), "response_format": params.pop("format")}
        return params | renamed | {"speed": self.speed}

    def _encoder(self) -> Encoder:
        encoder = OPENAI_ENCODERS[self.form](SAMPLE_RATE)
        return encoder if self.speed == 1 else TempoEncoder(SAMPLE_RATE, self.speed, encoder)


def _random_text(random: Random, letters: int, slows: int) -> str:
    words = ["slow"] * slows
    while sum(map(len, words)) + len(words) < letters:
        words.append(random.choice(WORDS) + random.choice(("", "", "", ".")))
    random.shuffle(words)
    return " ".join(words)
