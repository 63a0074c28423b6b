"""PCM in, bytes of an audio file out, while the audio is still being made.

Called by the API's routes, one encoder per response. `ENCODERS` names a class for each `format`,
`OPENAI_ENCODERS` one for each `response_format`.
"""

import struct
import weakref
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from typing import ClassVar

import av

from app.audio.ffmpeg import audio_frame, ffmpeg_errors
from app.core.audio import BYTES_PER_SAMPLE
from app.core.errors import ServiceError


class Encoder(ABC):
    """Turns one stream of mono PCM into one audio file.

    Not thread-safe: one call at a time. One that is no longer wanted is simply dropped, also while
    a thread is still inside it: the last reference to go takes everything with it.
    """

    media_type: str
    """For `Content-Type`; a class has it without parameters."""

    cpu_bound: bool
    """Whether `encode` and `finish` take real CPU time and so belong in a thread."""

    @abstractmethod
    def __init__(self, sample_rate: int) -> None: ...

    @abstractmethod
    def encode(self, pcm: bytes) -> bytes:
        """What the file gains by `pcm`, int16 little-endian [n]; may be empty.

        Raises `EncoderFailed`.
        """

    @abstractmethod
    def finish(self) -> bytes:
        """The rest of the file; no call follows. Raises `EncoderFailed`."""

    def on_abort(self, error: ServiceError) -> bytes:
        """The last words of a stream that is cut off; no call follows. Most formats have none."""
        return b""

    def finalize_file(self, stream: bytes) -> bytes:
        """The finished `stream` as it is best stored or sent with a known length."""
        return stream


class RawPcmEncoder(Encoder):
    media_type = "audio/pcm"
    cpu_bound = False

    def __init__(self, sample_rate: int) -> None:
        self.media_type = f"audio/pcm;rate={sample_rate};channels=1"

    def encode(self, pcm: bytes) -> bytes:
        return pcm

    def finish(self) -> bytes:
        return b""


class WavEncoder(Encoder):
    media_type = "audio/wav"
    cpu_bound = False

    def __init__(self, sample_rate: int) -> None:
        self._sample_rate = sample_rate
        self._header = wav_header(sample_rate, None)

    def encode(self, pcm: bytes) -> bytes:
        header, self._header = self._header, b""
        return header + pcm

    def finish(self) -> bytes:
        return self.encode(b"")

    def finalize_file(self, stream: bytes) -> bytes:
        """The same with true sizes in the header."""
        pcm = stream[_WAV_HEADER.size :]
        return wav_header(self._sample_rate, len(pcm)) + pcm


class _FFmpegEncoder(Encoder):
    """A codec and a container of FFmpeg's; a format says which, and with what options."""

    cpu_bound = True
    container: ClassVar[str]
    codec: ClassVar[str]
    bit_rate: ClassVar[int]
    options: ClassVar[Mapping[str, str]] = {}

    def __init__(self, sample_rate: int) -> None:
        self._sample_rate = sample_rate
        self._position = 0  # samples so far
        self._out = _Sink()
        with ffmpeg_errors():
            self._file = av.open(
                self._out,
                "w",
                format=self.container,
                # bitexact: no random identifiers, the same audio makes the same file
                container_options={"flush_packets": "1", "fflags": "bitexact", **self.options},
            )
            self._stream = self._file.add_stream(
                self.codec,
                rate=_codec_rate(self.codec, sample_rate),
                layout="mono",
                bit_rate=self.bit_rate,
            )
        # File and stream refer to each other; closing unties them, so nothing waits for the
        # garbage collector, which cannot see how much native memory it would free.
        weakref.finalize(self, _abandon, self._file)

    def encode(self, pcm: bytes) -> bytes:
        with ffmpeg_errors():
            if pcm:
                frame = audio_frame(pcm, self._sample_rate, self._position)
                self._position += len(pcm) // BYTES_PER_SAMPLE
                self._file.mux(self._stream.encode(frame))
        return self._out.take()

    def finish(self) -> bytes:
        with ffmpeg_errors():
            self._file.start_encoding()  # without audio nothing has yet written the header
            self._file.mux(self._stream.encode(None))
            self._file.close()
        return self._out.take()


class Mp3Encoder(_FFmpegEncoder):
    media_type = "audio/mpeg"
    container, codec, bit_rate = "mp3", "libmp3lame", 96_000
    # Both headers describe the whole file, which a stream cannot know at its start.
    options: ClassVar = {"write_xing": "0", "id3v2_version": "0"}


class FragmentedMp4Encoder(_FFmpegEncoder):
    media_type = "audio/mp4"
    container, codec, bit_rate = "mp4", "aac", 96_000
    options: ClassVar = {
        # delay_moov lets the header wait for the first packet, and so say how much priming the
        # player is to drop.
        "movflags": "empty_moov+delay_moov+default_base_moof+skip_trailer",
        "frag_duration": "80000",  # µs; then the frame that reaches it ends the fragment
    }


class WebmEncoder(_FFmpegEncoder):
    media_type = "audio/webm"
    container, codec, bit_rate = "webm", "libopus", 64_000
    options: ClassVar = {"live": "1", "cluster_time_limit": "100"}  # ms


class OggOpusEncoder(_FFmpegEncoder):
    media_type = "audio/opus"
    container, codec, bit_rate = "ogg", "libopus", 64_000
    options: ClassVar = {"page_duration": "40000"}  # µs; FFmpeg's own page is a second


class AdtsEncoder(_FFmpegEncoder):
    media_type = "audio/aac"
    container, codec, bit_rate = "adts", "aac", 96_000


class FlacEncoder(_FFmpegEncoder):
    media_type = "audio/flac"
    container, codec, bit_rate = "flac", "flac", 0  # nothing is lost
    options: ClassVar = {"metadata_header_padding": "0"}  # else 8 KB, for tags to come

    def finalize_file(self, stream: bytes) -> bytes:
        """The same with its length, the last 36 of these bits; in a stream it is 0, not known."""
        length = int.from_bytes(stream[_FLAC_LENGTH]) | self._position
        return stream[: _FLAC_LENGTH.start] + length.to_bytes(8) + stream[_FLAC_LENGTH.stop :]


_FLAC_LENGTH = slice(18, 26)

_WAV_HEADER = struct.Struct("<4sI4s 4sIHHIIHH 4sI")
_UNKNOWN_SIZE = 0xFFFFFFFF


def wav_header(sample_rate: int, data_bytes: int | None) -> bytes:
    """The 44 bytes before mono int16 PCM; None, a length not yet known, becomes 0xFFFFFFFF."""
    data_size = _UNKNOWN_SIZE if data_bytes is None else data_bytes
    riff_size = _UNKNOWN_SIZE if data_bytes is None else data_bytes + _WAV_HEADER.size - 8
    return _WAV_HEADER.pack(
        *(b"RIFF", riff_size, b"WAVE"),
        *(b"fmt ", 16, 1, 1, sample_rate, sample_rate * 2, 2, 16),
        *(b"data", data_size),
    )


class _Sink:
    """The file that FFmpeg writes to. Having no `seek`, it tells FFmpeg never to go back."""

    def __init__(self) -> None:
        self._written: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._written.append(data)
        return len(data)

    def take(self) -> bytes:
        """All that was written since the last call."""
        taken = b"".join(self._written)
        self._written.clear()
        return taken


def _codec_rate(codec: str, sample_rate: int) -> int:
    """The rate to encode at: `sample_rate` if the codec has it (Opus has five), else 48 kHz."""
    known = av.Codec(codec, "w").audio_rates
    return sample_rate if known is None or sample_rate in known else 48_000


def _abandon(file: av.container.OutputContainer) -> None:
    """Close a file that nobody wants any more, or that is closed already."""
    with suppress(av.FFmpegError):  # of one that had failed before
        file.close()


ENCODERS: dict[str, type[Encoder]] = {
    "wav": WavEncoder,
    "mp3": Mp3Encoder,
    "fmp4": FragmentedMp4Encoder,
    "raw_pcm": RawPcmEncoder,
    "webm": WebmEncoder,
}

OPENAI_ENCODERS: dict[str, type[Encoder]] = {
    "mp3": Mp3Encoder,
    "opus": OggOpusEncoder,
    "aac": AdtsEncoder,
    "flac": FlacEncoder,
    "wav": WavEncoder,
    "pcm": RawPcmEncoder,
}
