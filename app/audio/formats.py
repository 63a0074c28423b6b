"""The audio formats: one table of names, encoders, file endings and media types.

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
from app.audio.tempo import TempoEncoder
from app.core.audio import SAMPLE_RATE


@dataclass(frozen=True)
class AudioFormat:
    """`aliases`: other names that requests may have for it. `suffixes`: endings of its files.

    `accept`: the media types by which an `Accept` header asks for it.
    """

    encoder: type[Encoder]
    aliases: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = ()
    accept: tuple[str, ...] = ()


PCM = AudioFormat(RawPcmEncoder, ("pcm",), (".pcm",), ("audio/pcm",))

FORMATS = {
    "wav": AudioFormat(WavEncoder, (), (".wav",), ("audio/wav", "audio/x-wav", "audio/wave")),
    "mp3": AudioFormat(Mp3Encoder, (), (".mp3",), ("audio/mpeg", "audio/mp3")),
    "fmp4": AudioFormat(FragmentedMp4Encoder, ("mp4", "m4a"), (".mp4", ".m4a"), ("audio/mp4",)),
    "raw_pcm": PCM,
    "webm": AudioFormat(WebmEncoder, (), (".webm",), ("audio/webm",)),
    "opus": AudioFormat(OggOpusEncoder, ("ogg",), (".opus", ".ogg")),
    "aac": AudioFormat(AdtsEncoder, (), (".aac",)),
    "flac": AudioFormat(FlacEncoder, (), (".flac",)),
}
"""By name; every route and the command line accept all names and aliases."""

FORMAT_OF_NAME = FORMATS | {alias: form for form in FORMATS.values() for alias in form.aliases}

ENCODERS = {name: form.encoder for name, form in FORMATS.items()}

FORMAT_OF_SUFFIX = {suffix: name for name, form in FORMATS.items() for suffix in form.suffixes}

if TYPE_CHECKING:
    FormatName: TypeAlias = str
else:
    FormatName = Literal[tuple(FORMAT_OF_NAME)]


def new_encoder(name: FormatName, speed: float = 1.0) -> Encoder:
    """An encoder of the format for audio that is to be `speed` times as fast."""
    encoder = FORMAT_OF_NAME[name].encoder(SAMPLE_RATE)
    return encoder if speed == 1 else TempoEncoder(SAMPLE_RATE, speed, encoder)
