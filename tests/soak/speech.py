"""A speech request of a soak, and the exact bytes of its response."""

from dataclasses import dataclass
from random import Random
from typing import Any

from app.audio.formats import ENCODERS
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
    openai: bool = False

    @classmethod
    def random(cls, random: Random, letters: int, slows: int = 0, **options: Any) -> "Speech":
        """Make a new text of about `letters` letters that contains `slow` `slows` times."""
        params = SynthesisParams(
            seed=random.getrandbits(32),
            chunk_overlap_method="zero",
            text_processing_chunk_size=random.randint(40, 150),
            audio_tokens_per_slice=SLICE_TOKENS,
        )
        words = ["slow"] * slows
        while sum(map(len, words)) + len(words) < letters:
            words.append(random.choice(WORDS) + random.choice(("", "", "", ".")))
        random.shuffle(words)
        return cls(" ".join(words), params, **options)

    def as_dict(self) -> dict[str, Any]:
        """Return the parameters of the request."""
        return {
            "input" if self.openai else "text": self.text,
            "response_format" if self.openai else "format": self.form,
            "stream": self.stream,
            "seed": self.params.seed,
            "chunk_overlap_method": self.params.chunk_overlap_method,
            "text_processing_chunk_size": self.params.text_processing_chunk_size,
            "audio_tokens_per_slice": self.params.audio_tokens_per_slice,
        }

    def file(self, voice: int = DEFAULT_VOICE) -> bytes:
        """Encode the complete response; blocks."""
        encoder = ENCODERS[self.form](SAMPLE_RATE)
        streamed = encoder.encode(expected_pcm(self.text, self.params, voice)) + encoder.finish()
        return streamed if self.stream else encoder.finalize_file(streamed)
