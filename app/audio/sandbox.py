"""The decoder of untrusted audio files: any upload in, mono float32 at the file's own rate out.

    decode_file(source, target)      the master: starts a child, judges how it ended
      └── python -m app.audio.sandbox   the child: parses, with two open files and no way to a third
    load_decoded(target)             the worker: plain numbers, no parser

A media parser is a large target, and a text named `.wav` may be a playlist by which FFmpeg opens
other files. So the master never parses: a child process does, with the file on its standard input
and the result on its standard output, limits on time, memory, output and open files, none of the
master's environment, and no word to say but its exit status.
"""

import asyncio
import errno
import json
import logging
import os
import resource
import signal
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from uuid import uuid4

import numpy as np

from app.audio.speech_activity import ActivityMeter
from app.core.errors import StorageFull, UnusableAudio

if TYPE_CHECKING:
    from app.core.audio import Samples

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DecodeLimits:
    """What a file may be (`min_s` to `max_s`, `rates` in Hz, …), and cost its decoder."""

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
    """The exit statuses of a decoder that was not struck down."""

    DONE = 0
    DISK_FULL = 10
    EMPTY = 11
    UNKNOWN_FORMAT = 12
    NO_SOUND = 13
    UNKNOWN_CODEC = 14
    ODD_RATE = 15
    ODD_CHANNELS = 16
    DAMAGED = 17
    TOO_SHORT = 18
    TOO_LONG = 19
    SILENT = 20
    MOSTLY_SILENT = 21


_REASONS = {
    ExitStatus.EMPTY: "it is empty",
    ExitStatus.UNKNOWN_FORMAT: "it is not a whole wav, mp3, flac, ogg, opus, m4a or webm file",
    ExitStatus.NO_SOUND: "there is no sound in it",
    ExitStatus.UNKNOWN_CODEC: "its sound is coded in a way that is not supported",
    ExitStatus.ODD_RATE: "its sample rate is not between {rates[0]} and {rates[1]} Hz throughout",
    ExitStatus.ODD_CHANNELS: "it does not have 1 to {max_channels} channels",
    ExitStatus.DAMAGED: "it is damaged or cut off",
    ExitStatus.TOO_SHORT: "it is shorter than {min_s:g} s",
    ExitStatus.TOO_LONG: "it is longer than {max_s:g} s",
    ExitStatus.SILENT: "it is silent",
    ExitStatus.MOSTLY_SILENT: "there is less than {min_active_s:g} s of sound in it",
}


class DecoderKilled(UnusableAudio):
    """The decoder was struck down, by a limit or for want of memory: another try may do."""


async def decode_file(source: Path, target: Path, limits: DecodeLimits | None = None) -> None:
    """Decode `source` into `target`, which appears complete or not at all.

    Raises UnusableAudio with the reason, StorageFull, and OSError if one of the two files cannot
    be opened (a symlink cannot).
    """
    limits = limits or DecodeLimits()
    partial = target.with_name(f".{target.name}.{uuid4().hex}")
    try:
        with (  # opening is all that happens here
            open(source, "rb", opener=_without_following) as media,  # noqa: ASYNC230
            open(partial, "xb") as result,  # noqa: ASYNC230
        ):
            status = await _run_child(media, result, limits)
        _raise_for_status(status, limits)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def load_decoded(path: Path) -> tuple["Samples", int]:
    """What `decode_file` wrote: float32 [n] mono, within ±1, and its sample rate in Hz."""
    stored = np.fromfile(path, "<f4")
    return stored[1:], int(stored[:1].view("<u4")[0])


def _without_following(path: str, flags: int) -> int:
    # Not blocking either: the open of a FIFO would wait for its writer.
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


async def _run_child(media: BinaryIO, result: BinaryIO, limits: DecodeLimits) -> int:
    """The exit status, negative for a signal; whatever happens, no child is left."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-E", "-s", "-m", __name__, json.dumps(asdict(limits))),
        stdin=media,
        stdout=result,
        stderr=asyncio.subprocess.DEVNULL,
        cwd=Path(__file__).parents[2],  # from where `-m` finds this module
        env={"OPENBLAS_NUM_THREADS": "1"},  # else numpy starts a thread per core
    )
    try:
        async with asyncio.timeout(limits.wall_s):
            return await child.wait()
    except TimeoutError:
        return -signal.SIGKILL
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


def _raise_for_status(status: int, limits: DecodeLimits) -> None:
    if status == ExitStatus.DONE:
        return
    if status == ExitStatus.DISK_FULL:
        raise StorageFull("There is no space left for the decoded voice.")
    reason = _REASONS.get(status)  # type: ignore[call-overload]
    if reason is None:
        log.warning("decoder ended with status %d", status)
        raise DecoderKilled(
            "The file cannot be used: decoding it failed or took too long.", param="file"
        )
    raise UnusableAudio(
        f"The file cannot be used: {reason.format(**asdict(limits))}.", param="file"
    )


# --- In the child -------------------------------------------------------------------------------


_WHITELISTS = {
    "format_whitelist": "wav,mp3,flac,ogg,mov,matroska",
    "protocol_whitelist": "none",  # no such protocol: the one input is open already
    "codec_whitelist": (
        "pcm_u8,pcm_s16le,pcm_s24le,pcm_s32le,pcm_f32le,pcm_f64le,pcm_s16be,pcm_s24be,pcm_alaw,"
        "pcm_mulaw,adpcm_ms,adpcm_ima_wav,mp3,mp3float,flac,vorbis,opus,aac,alac"
    ),
}

_STATED_LENGTH = {"wav", "flac", "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}
"""Containers that state how long they are; for the others FFmpeg may only guess it."""

_ENDLESS_WAV = 0x7FFFFF00  # a size from here on was written by a stream that knew no end

_STRAY_PACKETS = 2  # that may fail to decode: an odd tag at the end of an mp3 is no damage


class _Rejected(Exception):
    def __init__(self, ending: ExitStatus) -> None:
        self.ending = ending


def main() -> int:
    """Decode standard input to standard output; the limits are the one argument."""
    limits = DecodeLimits(**json.loads(sys.argv[1]))
    _apply_rlimits(limits)
    # After the limits on memory and time, and all of it before that on files: PyAV imports the
    # two modules for subtitles only when it meets some.
    import av
    import av.subtitles.codeccontext
    import av.subtitles.stream

    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))  # what is open stays; nothing is added
    try:
        with open(0, "rb", closefd=False) as media, open(1, "wb", closefd=False) as result:
            _decode(media, result, limits)
    except _Rejected as refusal:
        return refusal.ending
    except av.FFmpegError:
        return ExitStatus.DAMAGED
    except OSError as fault:
        if fault.errno in (errno.ENOSPC, errno.EDQUOT):
            return ExitStatus.DISK_FULL
        raise
    return ExitStatus.DONE


def _apply_rlimits(limits: DecodeLimits) -> None:
    os.nice(10)  # speech goes first
    signal.alarm(int(limits.wall_s) + 2)  # should the master die, this process follows
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
    """The container and its first audio stream; the content decides, names do not count."""
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

    strays = 0
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.InvalidDataError:
            strays += 1
            if strays > _STRAY_PACKETS:
                raise
            continue
        for frame in frames:
            if frame.sample_rate != rate:
                raise _Rejected(ExitStatus.ODD_RATE)
            yield _mono(frame)


def _mono(frame: Any) -> "Samples":
    """The mean of the channels, float32 [n] within ±1; what is not a number becomes 0."""
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
    """The duration in seconds that the file claims, 0 where it claims none."""
    if container.format.name not in _STATED_LENGTH or not container.duration:
        return 0.0
    stated = float(container.duration) / 1_000_000
    if container.format.name == "wav":
        # FFmpeg has corrected the length of a wav by what is there: compare the sizes instead.
        media.seek(4)
        size = int.from_bytes(media.read(4), "little")
        if size < _ENDLESS_WAV:
            stated *= size / os.fstat(media.fileno()).st_size
    return stated


if __name__ == "__main__":
    sys.exit(main())
