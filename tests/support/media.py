"""Generated audio files of every kind, and the duration of a file."""

import io
from typing import Any

import av
import numpy as np

EVEN_VORBIS = {"strict": "experimental"}
LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}


def tone(seconds: float, rate: int = 16_000, *, hz: float = 220, level: float = 0.3) -> Any:
    """Return a sine, float32 [n]."""
    t = np.arange(round(seconds * rate)) / rate
    return (level * np.sin(2 * np.pi * hz * t)).astype(np.float32)


def seconds_of(file: bytes) -> float:
    """Return the duration of all decoded audio."""
    with av.open(io.BytesIO(file)) as media:
        return sum(frame.samples / frame.sample_rate for frame in media.decode(audio=0))


def audio_file(
    *tracks: Any,
    rate: int = 16_000,
    container: str = "wav",
    codec: str = "pcm_s16le",
    video: bool = False,
    subtitles: bool = False,
) -> bytes:
    """Return a media file; each track, float32 [n] or [channels, n], is an audio stream."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        if subtitles:
            output.add_stream("ass")
        picture = _picture_stream(output) if video else None
        streams = [
            output.add_stream(codec, rate, EVEN_VORBIS, layout=LAYOUTS[len(np.atleast_2d(track))])
            for track in tracks
        ]
        if picture:
            output.mux(picture.encode(av.VideoFrame(64, 64, "yuv420p")))
        for stream, track in zip(streams, tracks, strict=True):
            _mux(output, stream, np.ascontiguousarray(np.atleast_2d(track), np.float32), rate)
        if picture:
            output.mux(picture.encode(None))
    return file.getvalue()


def _picture_stream(output: Any) -> Any:
    picture = output.add_stream("mpeg4", rate=25)
    picture.width = picture.height = 64
    picture.pix_fmt = "yuv420p"
    return picture


def _mux(output: Any, stream: Any, samples: Any, rate: int) -> None:
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=LAYOUTS[len(samples)])
    frame.sample_rate = rate
    resampler = av.AudioResampler(
        format=stream.codec_context.format, layout=frame.layout, rate=rate, frame_size=1024
    )
    for piece in [*resampler.resample(frame), *resampler.resample(None)]:
        output.mux(stream.encode(piece))
    output.mux(stream.encode(None))
