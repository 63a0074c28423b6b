"""The frame before an MP3 file's audio that states its length, and the silence to drop.

An encoder begins with a delay and fills its last frame. The Info frame, as LAME writes it, has
both, so that players show and play the true length: http://gabriel.mp3-tech.org/mp3infotag.html
"""

import struct

LAME_DELAY = 576
"""Samples before those of the input; every decoder adds 529, which are not counted."""

_ALL_FIELDS = 0b1111
_CONSTANT_BIT_RATE = 1
_UNKNOWN = 0
_INFO = struct.Struct(">4s I I I 100s I")
_LAME = struct.Struct(">9s B B f H H B B 3s B B H I H")


def info_frame(header: bytes, bit_rate: int, frames: int, audio_bytes: int, samples: int) -> bytes:
    """Return the Info frame of mono audio with a constant bit rate.

    `header`: the 4 bytes that the first of the `frames` begins with, `audio_bytes` in all.
    `samples` is the number of those that were encoded.
    """
    mpeg1 = bool(header[1] & 0b1000)
    samples_per_frame = 1152 if mpeg1 else 576
    rate = (44_100, 48_000, 32_000)[header[2] >> 2 & 0b11] // (1 if mpeg1 else 2)
    has_slot = header[2] >> 1 & 1
    frame_bytes = samples_per_frame * bit_rate // (8 * rate) + has_slot
    file_bytes = audio_bytes + frame_bytes
    seek_points = bytes(percent * 256 // 100 for percent in range(100))
    padding = frames * samples_per_frame - LAME_DELAY - samples
    frame = header + bytes(17 if mpeg1 else 9)
    frame += _INFO.pack(b"Info", _ALL_FIELDS, frames, file_bytes, seek_points, _UNKNOWN)
    frame += _LAME.pack(
        *(b"LAME3.100", _CONSTANT_BIT_RATE, _UNKNOWN, _UNKNOWN, _UNKNOWN, _UNKNOWN, _UNKNOWN),
        *(bit_rate // 1000, (LAME_DELAY << 12 | padding).to_bytes(3), _UNKNOWN, _UNKNOWN),
        *(_UNKNOWN, file_bytes, _UNKNOWN),
    )
    return (frame + crc16(frame).to_bytes(2)).ljust(frame_bytes, b"\0")


def crc16(data: bytes) -> int:
    """Return the checksum that catalogues call CRC-16/ARC."""
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xA001 if crc & 1 else 0)
    return crc
