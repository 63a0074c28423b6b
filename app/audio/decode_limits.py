"""What the decoder process accepts, and how it says what is wrong with a file."""

import struct
from dataclasses import dataclass
from enum import IntEnum

HEADER = struct.Struct("<II")
"""Of a decoded file: its sample rate in Hz, and its number of samples."""


@dataclass(frozen=True)
class DecodeLimits:
    """Bounds of an acceptable file (`rates` in Hz), and of the resources to decode it."""

    min_s: float = 1.0
    max_s: float = 300.0
    rates: tuple[int, int] = (4_000, 384_000)
    max_channels: int = 8
    min_peak: float = 1e-3  # -60 dBFS
    min_active_s: float = 1.0  # of what is kept, silence not counted
    kept_s: float = 60.0  # the first with sound; the rest is checked only
    kept_rate: int = 48_000  # a higher rate is converted
    wall_s: float = 30.0
    cpu_s: int = 20
    memory_bytes: int = 1 << 30


class ExitStatus(IntEnum):
    """The exit status of a decoder that was not killed.

    `reason`: what is wrong with a file that was refused; its fields are those of `DecodeLimits`.
    """

    reason: str

    def __new__(cls, status: int, reason: str = "") -> "ExitStatus":
        member = int.__new__(cls, status)
        member._value_, member.reason = status, reason
        return member

    DONE = 0
    DISK_FULL = 10
    EMPTY = 11, "it is empty"
    UNKNOWN_FORMAT = (
        12,
        "it is not a whole wav, mp3, flac, ogg, opus, m4a or webm file; convert it to one of these",
    )
    NO_SOUND = 13, "there is no sound in it"
    UNKNOWN_CODEC = 14, "its sound is coded in a way that is not supported; convert it to wav"
    ODD_RATE = 15, "its sample rate is not between {rates[0]} and {rates[1]} Hz throughout"
    ODD_CHANNELS = 16, "it does not have 1 to {max_channels} channels"
    DAMAGED = 17, "it is damaged or cut off; send the whole file"
    TOO_SHORT = 18, "it is shorter than {min_s:g} s"
    TOO_LONG = 19, "it is longer than {max_s:g} s"
    SILENT = 20, "it is silent"
    MOSTLY_SILENT = 21, "there is less than {min_active_s:g} s of sound in it"
