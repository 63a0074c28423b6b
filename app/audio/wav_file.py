"""The sound of a WAV file, whichever program wrote the file.

Many programs write a placeholder for a size that they do not know yet, and some leave out the pad
byte after a chunk of odd size. FFmpeg gets the sound that is there, behind a plain header.
"""

import os
from collections.abc import Iterator
from itertools import islice
from typing import BinaryIO, Literal

ByteOrder = Literal["little", "big"]

_BYTE_ORDERS: dict[bytes, ByteOrder] = {
    b"RIFF": "little",
    b"RF64": "little",
    b"BW64": "little",
    b"RIFX": "big",
}

_COMMON_CHUNKS = (b"data", b"fmt ", b"fact", b"LIST", b"JUNK", b"PAD ", b"bext", b"PEAK", b"id3 ")

_UNKNOWN_SIZE = 0xFFFFFFFF  # or it is in the chunk "ds64"
_MAX_CHUNKS = 1000
_MAX_FORMAT_BYTES = 65_553  # 18, of which the last two state how many others follow


class WavSound:
    """A WAV file of the format and the sound of another one, which FFmpeg reads.

    `present_bytes` follow the other one's header; the sizes that it states are in `stated_bytes`:
    that of the sound, then that of all from there on.
    """

    def __init__(
        self, media: BinaryIO, head: bytes, start: int, stated_bytes: tuple[int, int]
    ) -> None:
        self.present_bytes = os.fstat(media.fileno()).st_size - start
        self.stated_bytes = stated_bytes
        self._media = media
        self._head = head
        self._moved_by = start - len(head)
        self._end = len(head) + min(stated_bytes[0] or self.present_bytes, self.present_bytes)
        self._at = 0

    def read(self, size: int) -> bytes:
        piece = self._head[self._at : self._at + size]
        if not piece:
            self._media.seek(self._at + self._moved_by)
            piece = self._media.read(max(0, min(size, self._end - self._at)))
        self._at += len(piece)
        return piece

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_CUR: self._at, os.SEEK_END: self._end}.get(whence, 0)
        return self._at

    def tell(self) -> int:
        return self._at


def find_wav_sound(media: BinaryIO) -> WavSound | None:
    """None if this is no WAV file, or one without format or sound."""
    media.seek(0)
    head = media.read(12)
    order = _BYTE_ORDERS.get(head[:4])
    if order is None or head[8:] != b"WAVE":
        return None
    form_end = 8 + int.from_bytes(head[4:8], order)
    sound_format, long_size, data = b"", 0, None
    for name, start, size in islice(_chunks(media, order), _MAX_CHUNKS):
        if name == b"fmt ":
            sound_format = media.read(min(size, _MAX_FORMAT_BYTES))
        elif name == b"ds64":
            long_size = int.from_bytes(media.read(16)[8:], order)
        elif name == b"data":
            stated = (long_size or size) if size == _UNKNOWN_SIZE else size
            data = start, (stated, form_end - start)
        if sound_format and data:
            return WavSound(media, _head(order, sound_format), *data)
    return None


def _chunks(media: BinaryIO, order: ByteOrder) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, position and size of each chunk, when its content is next in `media`."""
    at = 12
    while len(header := _bytes_at(media, at, 8)) == 8:
        size = int.from_bytes(header[4:], order)
        yield header[:4], at + 8, size
        at += 8 + size
        at += _padding(_bytes_at(media, at, 5), size)


def _bytes_at(media: BinaryIO, position: int, size: int) -> bytes:
    media.seek(position)
    return media.read(size)


def _padding(following: bytes, size: int) -> int:
    """The number of bytes between a chunk and the next one, by what follows it."""
    if following[1:] in _COMMON_CHUNKS:
        return 1
    is_name = all(0x20 <= byte < 0x7F for byte in following[:4])
    return 0 if is_name else size % 2


def _head(order: ByteOrder, sound_format: bytes) -> bytes:
    unknown = _UNKNOWN_SIZE.to_bytes(4, order)  # to the end of the file
    size = len(sound_format).to_bytes(4, order)
    form = b"RIFX" if order == "big" else b"RIFF"
    padded = sound_format + bytes(len(sound_format) % 2)
    return form + unknown + b"WAVEfmt " + size + padded + b"data" + unknown
