"""The audio formats: one table of names, encoders, file suffixes and media types.

Request schemas, content negotiation and the command line derive from it.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from app.audio.encoder import Encoder, RawPcmEncoder, WavEncoder
from app.audio.ffmpeg_encoders import (
    AdtsEncoder,
    FlacEncoder,
    FragmentedMp4Encoder,
    Mp3Encoder,
    OggOpusEncoder,
    WebmEncoder,
)


@dataclass(frozen=True)
class AudioFormat:
    """`media_types`: others than the encoder's that an `Accept` header may use for it."""

    encoder: type[Encoder]
    suffixes: tuple[str, ...] = ()
    media_types: tuple[str, ...] = ()


WAV = AudioFormat(WavEncoder, (".wav",), ("audio/x-wav", "audio/wave"))
MP3 = AudioFormat(Mp3Encoder, (".mp3",), ("audio/mp3",))
FRAGMENTED_MP4 = AudioFormat(FragmentedMp4Encoder, (".mp4", ".m4a"))
PCM = AudioFormat(RawPcmEncoder, (".pcm",))
WEBM = AudioFormat(WebmEncoder, (".webm",))

FORMATS = {"wav": WAV, "mp3": MP3, "fmp4": FRAGMENTED_MP4, "raw_pcm": PCM, "webm": WEBM}
"""By the name that `format` of `/tts/generate` has for it."""

OPENAI_FORMATS = {
    "mp3": MP3,
    "opus": AudioFormat(OggOpusEncoder),
    "aac": AudioFormat(AdtsEncoder),
    "flac": AudioFormat(FlacEncoder),
    "wav": WAV,
    "pcm": PCM,
}
"""By the name that `response_format` of OpenAI's API has for it."""

ENCODERS = {name: form.encoder for name, form in FORMATS.items()}
OPENAI_ENCODERS = {name: form.encoder for name, form in OPENAI_FORMATS.items()}

FORMAT_OF_SUFFIX = {suffix: name for name, form in FORMATS.items() for suffix in form.suffixes}

if TYPE_CHECKING:
    FormatName: TypeAlias = str
    OpenAIFormatName: TypeAlias = str
else:
    FormatName = Literal[tuple(FORMATS)]
    OpenAIFormatName = Literal[tuple(OPENAI_FORMATS)]
