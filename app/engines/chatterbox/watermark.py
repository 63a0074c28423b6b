"""Perth's watermark, applied to a stream of audio.

    load_watermarker() → WatermarkFn       once per engine: marks whole recordings, has no state
    StreamingWatermark(watermark).push     once per job: called by the pipeline on the joined audio

Perth resamples to 32 kHz, takes a spectrum every 320 samples there (240 here) and changes each
depending on the 15 before and the 15 after. A sample's result thus depends on 0.214 s to either
side, hardly on the outermost of these: windows with 0.2 s of context at both ends, marked one by
one, join to the marked whole recording.
"""

import pickle
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from io import StringIO
from typing import Any

import numpy as np

from app.core.audio import SAMPLE_RATE, Samples
from app.core.errors import StartupError

WatermarkFn = Callable[[Samples], Samples]
"""Marks a recording of any length, float32 [n] at 24 kHz → float32 [n]."""

FRAME = 960
"""Windows and their parts begin at multiples of this many samples, four of Perth's hops, so that
its spectra are those of the whole recording. It is also the shortest recording Perth accepts."""

CONTEXT = LOOK_AHEAD = 5 * FRAME
"""Samples of context before and after the part of a window that is used: 0.2 s."""

_COUNT_BYTES = 4
_EMPTY: Samples = np.empty(0, np.float32)

_LOAD_ERRORS = (
    *(ImportError, OSError, RuntimeError, AssertionError, EOFError),
    pickle.UnpicklingError,
)


class StreamingWatermark:
    """Marks one stream, with a delay of at most `LOOK_AHEAD + FRAME - 1` samples.

    However it is cut, the result is Perth's mark of the whole recording up to rounding: 1e-5 of
    full scale, where the mark reaches 0.08, and 1e-4 next to digital silence.
    """

    def __init__(self, watermark: WatermarkFn, state: bytes = b"") -> None:
        """`state`: of the stream that this one continues."""
        self._watermark = watermark
        # unmarked: context, then samples not yet returned
        self._buffer: Samples = np.frombuffer(state[_COUNT_BYTES:], np.float32)
        self._context = int.from_bytes(state[:_COUNT_BYTES])  # samples of context in it

    @property
    def state(self) -> bytes:
        return self._context.to_bytes(_COUNT_BYTES) + self._buffer.tobytes()

    def push(self, audio: Samples, last: bool) -> Samples:
        """See `engines.base.Watermark`. Samples may exceed ±1."""
        self._buffer = np.concatenate((self._buffer, audio))
        final = len(self._buffer)
        if not last:
            final = (final - LOOK_AHEAD) // FRAME * FRAME
        if final <= self._context:
            return _EMPTY
        marked = self._watermark(self._buffer)[self._context : final]
        self._context = min(final, CONTEXT)
        self._buffer = self._buffer[final - self._context :]
        return marked


def load_watermarker() -> WatermarkFn:
    """Load and warm up Perth's implicit watermarker, on the CPU; its package has the weights.

    Raises `StartupError` if that fails, so that no speech goes out unmarked by accident.
    """
    try:
        # By its full name: `perth` itself turns an import that fails into a None.
        from perth.perth_net.perth_net_implicit.perth_watermarker import PerthImplicitWatermarker

        with redirect_stdout(StringIO()):  # it prints
            perth = PerthImplicitWatermarker()
        watermark = partial(_apply, perth)
        watermark(np.zeros(FRAME, np.float32))  # the first call imports more modules
    except _LOAD_ERRORS as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise StartupError(
            f"the watermarker cannot be loaded ({reason}): reinstall resemble-perth with "
            "'setuptools<82', or set WATERMARK=false"
        ) from error
    return watermark


def _apply(perth: Any, audio: Samples) -> Samples:
    """Pad to whole frames, since Perth refuses short recordings and drops an incomplete hop."""
    import torch

    padded = np.pad(audio, (0, -len(audio) % FRAME))
    with torch.inference_mode():
        marked: Samples = perth.apply_watermark(padded, SAMPLE_RATE)
    return marked[: len(audio)]
