"""The decoder process: `python -m app.audio.decoder_main LIMITS`, started by `audio.sandbox`.

It decodes an audio file from standard input. To standard output go the sample rate as uint32,
then mono samples at that rate as float32, little-endian. The exit status is an `ExitStatus`.
"""

import errno
import json
import os
import resource
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from app.audio.speech_activity import ActivityMeter

if TYPE_CHECKING:
    from app.core.audio import Samples


@dataclass(frozen=True)
class DecodeLimits:
    """Bounds of an acceptable file (`rates` in Hz), and of the resources to decode it."""

    min_s: float = 1.0
    max_s: float = 300.0
    rates: tuple[int, int] = (4_000, 384_000)
    max_channels: int = 8
    min_peak: float = 1e-3  # -60 dBFS
    min_active_s: float = 1.0  # silence not counted
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
    UNKNOWN_FORMAT = 12, "it is not a whole wav, mp3, flac, ogg, opus, m4a or webm file"
    NO_SOUND = 13, "there is no sound in it"
    UNKNOWN_CODEC = 14, "its sound is coded in a way that is not supported"
    ODD_RATE = 15, "its sample rate is not between {rates[0]} and {rates[1]} Hz throughout"
    ODD_CHANNELS = 16, "it does not have 1 to {max_channels} channels"
    DAMAGED = 17, "it is damaged or cut off"
    TOO_SHORT = 18, "it is shorter than {min_s:g} s"
    TOO_LONG = 19, "it is longer than {max_s:g} s"
    SILENT = 20, "it is silent"
    MOSTLY_SILENT = 21, "there is less than {min_active_s:g} s of sound in it"


_WHITELISTS = {
    "format_whitelist": "wav,mp3,flac,ogg,mov,matroska",
    "protocol_whitelist": "none",  # a protocol that does not exist: the only input is open already
    "codec_whitelist": (
        "pcm_u8,pcm_s16le,pcm_s24le,pcm_s32le,pcm_f32le,pcm_f64le,pcm_s16be,pcm_s24be,pcm_alaw,"
        "pcm_mulaw,adpcm_ms,adpcm_ima_wav,mp3,mp3float,flac,vorbis,opus,aac,alac"
    ),
}

_STATED_LENGTH = {"wav", "flac", "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}
"""Containers that state their duration; for the others FFmpeg estimates it."""

_UNKNOWN_WAV_SIZE = 0x7FFFFF00  # streams of unknown length state this size or more

_MAX_BAD_PACKETS = 2  # an unusual tag at the end of an mp3 fails to decode


class _Rejected(Exception):
    def __init__(self, status: ExitStatus) -> None:
        self.status = status


def main() -> int:
    """Decode standard input to standard output; the limits are the one argument."""
    limits = DecodeLimits(**json.loads(sys.argv[1]))
    _apply_rlimits(limits)
    # Imported after the limits on memory and time, but before the one on files. PyAV would import
    # the two modules for subtitles only when it meets some.
    import av
    import av.subtitles.codeccontext
    import av.subtitles.stream

    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))  # open files stay open
    try:
        with open(0, "rb", closefd=False) as media, open(1, "wb", closefd=False) as result:
            _decode(media, result, limits)
    except _Rejected as rejected:
        return rejected.status
    except av.FFmpegError:
        return ExitStatus.DAMAGED
    except OSError as fault:
        if fault.errno in (errno.ENOSPC, errno.EDQUOT):
            return ExitStatus.DISK_FULL
        raise
    return ExitStatus.DONE


def _apply_rlimits(limits: DecodeLimits) -> None:
    os.nice(10)  # so that speech keeps its CPU time
    signal.alarm(int(limits.wall_s) + 2)  # ends this process even if the master died
    longest = int(limits.max_s + 1) * limits.rates[1] * 4
    for kind, limit in (
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_CPU, limits.cpu_s),
        (resource.RLIMIT_FSIZE, longest),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (limit, limit))


def _decode(media: BinaryIO, result: BinaryIO, limits: DecodeLimits) -> None:
    container, stream = _open(media)
    rate = _checked_rate(stream, limits)
    result.write(np.uint32(rate).astype("<u4").tobytes())
    length, peak, meter = 0, 0.0, ActivityMeter(rate)
    for mono in _mono_frames(container, stream, rate):
        length += mono.size
        if length > limits.max_s * rate:
            raise _Rejected(ExitStatus.TOO_LONG)
        peak = max(peak, float(np.abs(mono).max(initial=0.0)))
        meter.add(mono)
        result.write(mono.astype("<f4").tobytes())
    if not length:
        raise _Rejected(ExitStatus.NO_SOUND)
    if length < 0.9 * _stated_s(container, media) * rate:
        raise _Rejected(ExitStatus.DAMAGED)
    if length < limits.min_s * rate:
        raise _Rejected(ExitStatus.TOO_SHORT)
    if peak < limits.min_peak:
        raise _Rejected(ExitStatus.SILENT)
    if meter.active_s() < limits.min_active_s:
        raise _Rejected(ExitStatus.MOSTLY_SILENT)


def _open(media: BinaryIO) -> tuple[Any, Any]:
    """The container and its first audio stream, by content: the file has no name here."""
    import av

    if not os.fstat(media.fileno()).st_size:
        raise _Rejected(ExitStatus.EMPTY)
    try:
        container = av.open(media, options=_WHITELISTS, metadata_errors="ignore")
    except av.FFmpegError as fault:
        raise _Rejected(ExitStatus.UNKNOWN_FORMAT) from fault
    if not container.streams.audio:
        raise _Rejected(ExitStatus.NO_SOUND)
    return container, container.streams.audio[0]


def _checked_rate(stream: Any, limits: DecodeLimits) -> int:
    codec = stream.codec_context
    if codec is None or codec.name not in _WHITELISTS["codec_whitelist"].split(","):
        raise _Rejected(ExitStatus.UNKNOWN_CODEC)
    lowest, highest = limits.rates
    if not lowest <= (codec.sample_rate or 0) <= highest:
        raise _Rejected(ExitStatus.ODD_RATE)
    if not 1 <= codec.channels <= limits.max_channels:
        raise _Rejected(ExitStatus.ODD_CHANNELS)
    return int(codec.sample_rate)


def _mono_frames(container: Any, stream: Any, rate: int) -> Iterator["Samples"]:
    import av

    bad_packets = 0
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.InvalidDataError:
            bad_packets += 1
            if bad_packets > _MAX_BAD_PACKETS:
                raise
            continue
        for frame in frames:
            if frame.sample_rate != rate:
                raise _Rejected(ExitStatus.ODD_RATE)
            yield _mono(frame)


def _mono(frame: Any) -> "Samples":
    """The mean of the channels, float32 [n] within ±1; NaN becomes 0."""
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    if samples.dtype == np.uint8:
        samples = (samples - 128.0) / 128
    elif samples.dtype.kind == "i":
        samples = samples / -float(np.iinfo(samples.dtype).min)
    mixed: Samples = np.clip(np.nan_to_num(samples).mean(axis=0), -1, 1).astype(np.float32)
    return mixed


def _stated_s(container: Any, media: BinaryIO) -> float:
    """The duration in seconds that the file states, 0 if it states none."""
    if container.format.name not in _STATED_LENGTH or not container.duration:
        return 0.0
    stated = float(container.duration) / 1_000_000
    if container.format.name == "wav":
        # FFmpeg corrects the duration of a WAV by the file's size: undo that.
        media.seek(4)
        size = int.from_bytes(media.read(4), "little")
        if size < _UNKNOWN_WAV_SIZE:
            stated *= size / os.fstat(media.fileno()).st_size
    return stated


if __name__ == "__main__":
    sys.exit(main())
