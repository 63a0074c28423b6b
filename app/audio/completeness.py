"""Whether the sound of a file is cut off.

What a header states is compared with what is there, by the structure of the container: a pause is
no damage, nor is sound that begins late or ends early. Many programs write a placeholder for a size
or a duration that they do not know yet.
"""

import os
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from app.audio.matroska import ends_with_an_element, find_segment
from app.audio.wav_file import WavSound

LEAST_SHARE = 0.9
"""A file that has less of its sound is cut off."""

PLACEHOLDER_RATIO = 20
"""More than so many times of what is there is a placeholder, if it is more than any voice has …"""

MAX_VOICE_S = 300.0
MAX_VOICE_BYTES = 100_000_000
"""… that is, more than these."""

PLACEHOLDER_BYTES = 1_000_000_000
"""A larger size is a placeholder in any case."""

_ADTS_SYNC = b"\xff"


class Reading:
    """The sound of a file that FFmpeg has opened, and how far it has been read."""

    def __init__(self, media: BinaryIO, wav: WavSound | None, container: Any, stream: Any) -> None:
        self.media, self.wav = media, wav
        self.container, self.stream = container, stream
        self.sound_s = 0.0
        self.reached_s = 0.0  # the end of the last packet of any track
        self.last_packet: Any = None  # of the sound

    def packets(self) -> Iterator[Any]:
        """Yield those of the sound; the last one is empty."""
        for packet in self.container.demux():
            if packet.pts is not None:
                end = packet.pts + (packet.duration or 0)
                self.reached_s = max(self.reached_s, float(end * packet.time_base))
            if packet.stream is self.stream:
                self.last_packet = packet if packet.size else self.last_packet
                yield packet

    def is_cut_off(self, sound_s: float) -> bool:
        """Judge after the last packet; there were so many seconds of sound."""
        self.sound_s = sound_s
        share_of = _SHARES.get(self.container.format.name)
        share = share_of(self) if share_of else None
        return share is not None and share < LEAST_SHARE


def _share(present: float, stated: float, longest: float) -> float | None:
    """None if what is stated is a placeholder."""
    if not 0 < stated <= max(longest, PLACEHOLDER_RATIO * present):
        return None
    return present / stated


def _share_of_bytes(present: int, stated: int) -> float | None:
    if stated > PLACEHOLDER_BYTES:
        return None
    return _share(present, stated, MAX_VOICE_BYTES)


def _share_of_time(reading: Reading, reached_s: float) -> float | None:
    return _share(reached_s, (reading.container.duration or 0) / 1_000_000, MAX_VOICE_S)


def _of_wav(reading: Reading) -> float | None:
    if reading.wav is None:
        return None
    present = reading.wav.present_bytes
    by_chunk, by_form = (_share_of_bytes(present, stated) for stated in reading.wav.stated_bytes)
    return by_form if by_chunk is None else by_chunk


def _of_flac(reading: Reading) -> float | None:
    return _share_of_time(reading, reading.sound_s)


def _of_matroska(reading: Reading) -> float | None:
    """By the size of its one segment; the stated duration of a live recording may be longer."""
    start, size = find_segment(reading.media)
    by_size = _share_of_bytes(_file_bytes(reading.media) - start, size)
    if by_size is not None or ends_with_an_element(reading.media, start):
        return by_size
    return _share_of_time(reading, reading.reached_s)


def _of_mov(reading: Reading) -> float | None:
    """By the places of the samples, in the file's index or in those of its fragments."""
    end = _file_bytes(reading.media)
    samples = [(entry.size, entry.pos + entry.size > end) for entry in reading.stream.index_entries]
    missing = sum(size for size, is_missing in samples if is_missing)
    by_index: float = 1 - missing / max(1, sum(size for size, _ in samples))
    is_fragmented = not reading.stream.frames  # so that whole fragments may be missing
    by_time = _share_of_time(reading, reading.reached_s) if is_fragmented else None
    return by_index if by_time is None else min(by_index, by_time)


def _of_adts(reading: Reading) -> float | None:
    """By the last frame, as only frames state their size."""
    frame = bytes(reading.last_packet)
    stated = int.from_bytes(frame[3:6], "big") >> 5 & 0x1FFF
    reading.media.seek(reading.last_packet.pos + len(frame))
    another = reading.media.read(1)  # whose header is not complete
    return 0.0 if len(frame) < stated or another == _ADTS_SYNC else None


_SHARES: dict[str, Callable[[Reading], float | None]] = {
    "wav": _of_wav,
    "flac": _of_flac,
    "matroska,webm": _of_matroska,
    "mov,mp4,m4a,3gp,3g2,mj2": _of_mov,
    "aac": _of_adts,
}
"""By container; the others state nothing, and FFmpeg estimates their duration."""


def _file_bytes(media: BinaryIO) -> int:
    return os.fstat(media.fileno()).st_size
