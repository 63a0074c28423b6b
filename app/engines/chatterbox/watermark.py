"""Perth's watermark, put into a stream of audio while it passes.

    load_watermarker() → Mark        once per engine: marks whole recordings, keeps no state
    StreamingWatermark(mark).push    one per job: called by the pipeline, after chunks are joined

Perth resamples to 32 kHz, takes a spectrum every 320 samples there (240 here) and changes each
with regard to the 15 before and the 15 after. So what becomes of a sample depends on 0.214 s at
either side of it, and hardly on the outermost of these: short windows, each with 0.2 s more at both
ends, join to what the whole recording would have become.
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

Mark = Callable[[Samples], Samples]
"""A recording of any length, float32 [n] at 24 kHz, to the same recording marked."""

GRID = 960
"""Windows begin, and pieces end, at multiples of this many samples: four of Perth's steps, so
that its spectra fall as in the whole recording, and the fewest steps that it accepts at all."""

CONTEXT = LOOK_AHEAD = 5 * GRID
"""Samples that a window holds before and after the piece that is wanted of it: 0.2 s."""

_NOTHING: Samples = np.empty(0, np.float32)


class StreamingWatermark:
    """Marks one stream, at most `LOOK_AHEAD + GRID - 1` samples behind it.

    However the stream is cut, the result is Perth's mark of the whole recording but for rounding:
    1e-5 of full scale, where the mark itself reaches 0.08, and 1e-4 next to digital silence, since
    Perth computes with logarithms. So two ways to cut it differ in a few samples by one int16 step.
    """

    def __init__(self, mark: Mark) -> None:
        self._mark = mark
        self._heard = _NOTHING  # unmarked: some context, then what is still to come out
        self._context = 0  # samples of it

    def push(self, audio: Samples, last: bool) -> Samples:
        """What is settled after `audio`, float32 [n], of which `last` ends the stream.

        Returns float32 [m], in all as much as went in. It may exceed ±1.
        """
        self._heard = np.concatenate((self._heard, audio))
        settled = len(self._heard)
        if not last:
            settled = (settled - LOOK_AHEAD) // GRID * GRID
        if settled <= self._context:
            return _NOTHING
        marked = self._mark(self._heard)[self._context : settled]
        self._context = min(settled, CONTEXT)
        self._heard = self._heard[settled - self._context :]
        return marked


def load_watermarker() -> Mark:
    """Perth's implicit watermarker, on the CPU and warm; its weights are part of its package.

    Raises `StartupError` when it cannot be loaded: speech is not to go out unmarked by accident.
    """
    try:
        # By its full name: `perth` itself turns an import that fails into a None.
        from perth.perth_net.perth_net_implicit.perth_watermarker import PerthImplicitWatermarker

        with redirect_stdout(StringIO()):  # it prints
            perth = PerthImplicitWatermarker()
        mark = partial(_mark_whole, perth)
        mark(np.zeros(GRID, np.float32))  # the first call imports the rest
    except (
        ImportError,
        OSError,
        RuntimeError,
        AssertionError,
        EOFError,
        pickle.UnpicklingError,
    ) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise StartupError(
            f"the watermarker cannot be loaded ({reason}): reinstall resemble-perth with "
            "'setuptools<82', or set WATERMARK=false"
        ) from error
    return mark


def _mark_whole(perth: Any, audio: Samples) -> Samples:
    """Perth refuses less than 769 samples and drops what is over at the end, hence the padding."""
    import torch

    padded = np.pad(audio, (0, -len(audio) % GRID))
    with torch.inference_mode():
        marked: Samples = perth.apply_watermark(padded, SAMPLE_RATE)
    return marked[: len(audio)]
