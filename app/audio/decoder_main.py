"""The decoder process: `python -m app.audio.decoder_main LIMITS`, started by `audio.sandbox`.

It decodes an audio file from standard input. To standard output goes a `HEADER`, then mono samples
as float32, little-endian: as much as engines use of a voice (12 MB at most), or all of a recording.
The exit status is an `ExitStatus`.
"""

import errno
import json
import os
import resource
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from app.audio.completeness import Reading
from app.audio.decode_limits import HEADER, DecodeLimits, ExitStatus
from app.audio.speech_activity import ActivityMeter
from app.audio.wav_file import find_wav_sound
from app.core.native import kill_with_parent

if TYPE_CHECKING:
    from app.core.audio import Samples


_WHITELISTS = {
    "format_whitelist": "wav,mp3,flac,ogg,aac,mov,matroska",
    "protocol_whitelist": "none",  # a protocol that does not exist: the only input is open already
    "codec_whitelist": (
        "pcm_u8,pcm_s16le,pcm_s24le,pcm_s32le,pcm_f32le,pcm_f64le,pcm_s16be,pcm_s24be,pcm_alaw,"
        "pcm_mulaw,adpcm_ms,adpcm_ima_wav,mp3,mp3float,flac,vorbis,opus,aac,alac"
    ),
}

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
            result.flush()
            os.fsync(1)  # it is kept over restarts
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
    kill_with_parent()  # which ends it after `wall_s`
    longest = int(limits.kept_s + 1) * limits.kept_rate * 4
    for kind, limit in (
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_CPU, limits.cpu_s),
        (resource.RLIMIT_FSIZE, longest),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (limit, limit))


def _decode(media: BinaryIO, result: BinaryIO, limits: DecodeLimits) -> None:
    reading = _open(media)
    rate = _checked_rate(reading.stream, limits)
    kept = _Kept(result, rate, limits)
    length, peak = 0, 0.0
    for mono in _mono_frames(reading, rate):
        length += mono.size
        if length > limits.max_s * rate:
            raise _Rejected(ExitStatus.TOO_LONG)
        peak = max(peak, float(np.abs(mono).max(initial=0.0)))
        kept.add(mono)
    kept.finish()
    if not length:
        raise _Rejected(ExitStatus.NO_SOUND)
    if reading.is_cut_off(length / rate):
        raise _Rejected(ExitStatus.DAMAGED)
    if length < limits.min_s * rate:
        raise _Rejected(ExitStatus.TOO_SHORT)
    if peak < limits.min_peak:
        raise _Rejected(ExitStatus.SILENT)
    if kept.meter.active_s() < limits.min_active_s:
        raise _Rejected(ExitStatus.MOSTLY_SILENT)


class _Kept:
    """Writes the header and `kept_s` of the samples, at most at `kept_rate`.

    They are the first ones in which there is enough sound.
    """

    def __init__(self, result: BinaryIO, rate: int, limits: DecodeLimits) -> None:
        self._result = result
        self._rate = rate
        self._limits = limits
        self._has_sound = False
        self._start()

    def _start(self) -> None:
        import av

        kept_rate = min(self._rate, self._limits.kept_rate)
        self.meter = ActivityMeter(self._rate)
        self._left = int(self._limits.kept_s * self._rate)
        self._resampler = (
            av.AudioResampler("flt", "mono", kept_rate) if kept_rate < self._rate else None
        )
        self._kept_rate, self._written = kept_rate, 0
        self._result.write(HEADER.pack(kept_rate, 0))

    def add(self, mono: "Samples") -> None:
        import av

        if not self._left and not self._has_sound:
            self._has_sound = self.meter.active_s() >= self._limits.min_active_s
            if not self._has_sound:  # all of it was silence
                self._result.seek(0)
                self._result.truncate()
                self._start()
        piece = mono[: self._left]
        self._left -= piece.size
        self.meter.add(piece)
        if self._resampler is None:
            self._write(piece)
        elif piece.size:
            frame = av.AudioFrame.from_ndarray(piece[np.newaxis], "flt", "mono")
            frame.sample_rate = self._rate
            self._write_frames(self._resampler.resample(frame))

    def finish(self) -> None:
        if self._resampler is not None:
            self._write_frames(self._resampler.resample(None))
        self._result.seek(0)
        self._result.write(HEADER.pack(self._kept_rate, self._written))

    def _write_frames(self, frames: list[Any]) -> None:
        for frame in frames:
            self._write(np.clip(frame.to_ndarray()[0], -1, 1))

    def _write(self, samples: "Samples") -> None:
        self._written += samples.size
        self._result.write(samples.astype("<f4").tobytes())


def _open(media: BinaryIO) -> Reading:
    """The first audio stream, by content: the file has no name here."""
    import av

    if not os.fstat(media.fileno()).st_size:
        raise _Rejected(ExitStatus.EMPTY)
    wav = find_wav_sound(media)
    media.seek(0)
    try:
        container = av.open(wav or media, options=_WHITELISTS, metadata_errors="ignore")
    except av.FFmpegError as fault:
        raise _Rejected(ExitStatus.UNKNOWN_FORMAT) from fault
    if not container.streams.audio:
        raise _Rejected(ExitStatus.NO_SOUND)
    return Reading(media, wav, container, container.streams.audio[0])


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


def _mono_frames(reading: Reading, rate: int) -> Iterator["Samples"]:
    import av

    bad_packets = 0
    for packet in reading.packets():
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


if __name__ == "__main__":
    sys.exit(main())
