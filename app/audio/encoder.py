"""Encoders: mono PCM in, bytes of an audio file out, while the audio is still being generated.

`audio.formats` names the encoder of each format; the codecs of FFmpeg are in `ffmpeg_encoders`.
"""

import struct
from abc import ABC, abstractmethod

from app.core.errors import ServiceError

HEAD_BYTES = 512
"""The least of a file, or all of it, that `Encoder.finalize_head` needs."""


class Encoder(ABC):
    """Encodes one stream of mono PCM as one audio file.

    Not thread-safe: one call at a time. An encoder may be dropped at any moment, also while a
    thread is still inside it; its last reference releases all its resources.
    """

    media_type: str
    """For `Content-Type`; the class attribute has no parameters."""

    cpu_bound: bool
    """Whether `encode` and `finish` take real CPU time and so belong in a thread."""

    @abstractmethod
    def __init__(self, sample_rate: int) -> None: ...

    @abstractmethod
    def encode(self, pcm: bytes) -> bytes:
        """The next bytes of the file, maybe none, after `pcm` (int16). Raises `EncoderFailed`."""

    @abstractmethod
    def finish(self) -> bytes:
        """The rest of the file; no call follows. Raises `EncoderFailed`."""

    def on_abort(self, error: ServiceError) -> bytes:
        """The last bytes of a stream that fails midway; no call follows. Empty for most formats."""
        return b""

    def finalize_file(self, stream: bytes) -> bytes:
        """The finished `stream` with headers that state its length, for storage."""
        head = self.finalize_head(stream[:HEAD_BYTES], len(stream))
        return head + stream[HEAD_BYTES:]

    def finalize_head(self, head: bytes, file_bytes: int) -> bytes:
        """The first `HEAD_BYTES` or more of the finished stream, stating the file's length."""
        return head


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

    def finalize_head(self, head: bytes, file_bytes: int) -> bytes:
        pcm = head[_WAV_HEADER.size :]
        return wav_header(self._sample_rate, file_bytes - _WAV_HEADER.size) + pcm


_WAV_HEADER = struct.Struct("<4sI4s 4sIHHIIHH 4sI")
_UNKNOWN_SIZE = 0xFFFFFFFF


def wav_header(sample_rate: int, data_bytes: int | None) -> bytes:
    """The 44 bytes before mono int16 PCM; a length of None (not yet known) becomes 0xFFFFFFFF."""
    data_size = _UNKNOWN_SIZE if data_bytes is None else data_bytes
    riff_size = _UNKNOWN_SIZE if data_bytes is None else data_bytes + _WAV_HEADER.size - 8
    return _WAV_HEADER.pack(
        *(b"RIFF", riff_size, b"WAVE"),
        *(b"fmt ", 16, 1, 1, sample_rate, sample_rate * 2, 2, 16),
        *(b"data", data_size),
    )
