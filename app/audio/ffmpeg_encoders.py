"""Encoders that use a codec and a container of FFmpeg."""

import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import ClassVar

import av

from app.audio.encoder import Encoder
from app.audio.ffmpeg import audio_frame, ffmpeg_errors
from app.audio.mp3_info import info_frame
from app.audio.webm_duration import with_duration
from app.core.audio import BYTES_PER_SAMPLE


class FFmpegEncoder(Encoder):
    """Base of the formats, which name container, codec and options as class attributes."""

    cpu_bound = True
    container: ClassVar[str]
    codec: ClassVar[str]
    bit_rate: ClassVar[int]
    options: ClassVar[Mapping[str, str]] = {}

    def __init__(self, sample_rate: int) -> None:
        self._sample_rate = sample_rate
        self._position = 0  # samples so far
        self._packets = 0
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
                self._mux(self._stream.encode(frame))
        return self._out.take()

    def finish(self) -> bytes:
        with ffmpeg_errors():
            self._file.start_encoding()  # without audio nothing has yet written the header
            self._mux(self._stream.encode(None))
            self._file.close()
        return self._out.take()

    def _mux(self, packets: Sequence[av.Packet]) -> None:
        self._packets += len(packets)
        self._file.mux(packets)


class Mp3Encoder(FFmpegEncoder):
    media_type = "audio/mpeg"
    container, codec, bit_rate = "mp3", "libmp3lame", 96_000
    # Both headers describe the whole file, which a stream cannot know at its start.
    options: ClassVar = {"write_xing": "0", "id3v2_version": "0"}

    def finalize_head(self, head: bytes, file_bytes: int) -> bytes:
        frames, samples = self._packets, self._position
        if not frames:
            return head
        return info_frame(head[:4], self.bit_rate, frames, file_bytes, samples) + head


class FragmentedMp4Encoder(FFmpegEncoder):
    media_type = "audio/mp4"
    container, codec, bit_rate = "mp4", "aac", 96_000
    options: ClassVar = {
        # delay_moov lets the header wait for the first packet, and so say how much priming the
        # player is to drop.
        "movflags": "empty_moov+delay_moov+default_base_moof+skip_trailer",
        "frag_duration": "80000",  # µs; then the frame that reaches it ends the fragment
    }


class WebmEncoder(FFmpegEncoder):
    media_type = "audio/webm"
    container, codec, bit_rate = "webm", "libopus", 64_000
    options: ClassVar = {"live": "1", "cluster_time_limit": "100"}  # ms

    def finalize_head(self, head: bytes, file_bytes: int) -> bytes:
        return with_duration(head, 1000 * self._position / self._sample_rate)


class OggOpusEncoder(FFmpegEncoder):
    media_type = "audio/opus"
    container, codec, bit_rate = "ogg", "libopus", 64_000
    options: ClassVar = {"page_duration": "40000"}  # µs; FFmpeg's own page is a second


class AdtsEncoder(FFmpegEncoder):
    media_type = "audio/aac"
    container, codec, bit_rate = "adts", "aac", 96_000


class FlacEncoder(FFmpegEncoder):
    media_type = "audio/flac"
    container, codec, bit_rate = "flac", "flac", 0  # nothing is lost
    options: ClassVar = {"metadata_header_padding": "0"}  # else 8 KB, for tags to come

    def finalize_head(self, head: bytes, file_bytes: int) -> bytes:
        """Write the number of samples, the last 36 of these bits, which a stream leaves at 0."""
        length = int.from_bytes(head[_FLAC_LENGTH]) | self._position
        return head[: _FLAC_LENGTH.start] + length.to_bytes(8) + head[_FLAC_LENGTH.stop :]


_FLAC_LENGTH = slice(18, 26)


class _Sink:
    """The file that FFmpeg writes to; as it has no `seek`, FFmpeg never goes back."""

    def __init__(self) -> None:
        self._written: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._written.append(data)
        return len(data)

    def take(self) -> bytes:
        taken = b"".join(self._written)
        self._written.clear()
        return taken


def _codec_rate(codec: str, sample_rate: int) -> int:
    """The rate to encode at: `sample_rate` if the codec supports it, else 48 kHz (Opus)."""
    known = av.Codec(codec, "w").audio_rates
    return sample_rate if known is None or sample_rate in known else 48_000


def _abandon(file: av.container.OutputContainer) -> None:
    with suppress(av.FFmpegError):  # closing a file that had failed fails again
        file.close()
