"""Detection of the watermark, by Perth's own detector, as a listener's file may be examined."""

import io
from functools import cache
from typing import Any

import av
import numpy as np

from app.audio.formats import ENCODERS
from app.core.audio import SAMPLE_RATE, Samples
from app.pipeline.joiner import to_int16


@cache
def perth() -> Any:
    """Perth's own class."""
    from perth import PerthImplicitWatermarker

    return PerthImplicitWatermarker()


def score(audio: Samples) -> float:
    """From 0, not marked, to 1."""
    return float(perth().get_watermark(audio, SAMPLE_RATE, round=False))


def assert_detected(audio: Samples) -> None:
    """In the whole recording, and in every 2 s of it."""
    assert score(audio) > 0.9
    for start in range(0, len(audio) - 2 * SAMPLE_RATE + 1, SAMPLE_RATE):
        assert score(audio[start : start + 2 * SAMPLE_RATE]) > 0.9


def through_mp3(audio: Samples) -> Samples:
    """Encode and decode as the service and its client do."""
    encoder = ENCODERS["mp3"](SAMPLE_RATE)
    encoded = encoder.encode(to_int16(audio)) + encoder.finish()
    with av.open(io.BytesIO(encoded)) as file:
        return np.concatenate([frame.to_ndarray()[0] for frame in file.decode(audio=0)])
