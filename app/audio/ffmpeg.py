"""Frames for FFmpeg's libraries, and their errors."""

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction

import av
import numpy as np

from app.core.errors import EncoderFailed


def audio_frame(pcm: bytes, sample_rate: int, position: int) -> av.AudioFrame:
    """A frame of `pcm`, int16 little-endian mono [n], at sample `position` of its stream."""
    samples = np.frombuffer(pcm, "<i2")
    frame = av.AudioFrame.from_ndarray(samples[np.newaxis], format="s16", layout="mono")
    frame.sample_rate = sample_rate
    frame.time_base = Fraction(1, sample_rate)
    frame.pts = position
    return frame


@contextmanager
def ffmpeg_errors() -> Iterator[None]:
    try:
        yield
    except av.FFmpegError as error:
        raise EncoderFailed(f"The audio could not be encoded: {error}.") from error
