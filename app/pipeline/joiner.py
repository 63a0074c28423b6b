"""Joins the audio of a job's text chunks to one continuous stream. Lengths are in samples."""

import numpy as np

from app.core.audio import Samples
from app.core.errors import EngineFailed
from app.core.params import SynthesisParams

_NOTHING: Samples = np.empty(0, np.float32)


class ChunkJoiner:
    """Trims and joins the text chunks of one job; the result does not depend on slice borders.

    A chunk loses `remove_leading_milliseconds` at its start and `remove_trailing_milliseconds` at
    its end. The rest is joined to its neighbours by an equal-power crossfade ("full") or end to end
    ("zero"). A fade takes at most half of either chunk, so a short word between two long fades
    stays audible; a chunk with nothing left counts as absent. After a pause a chunk does not fade.
    """

    def __init__(
        self,
        params: SynthesisParams,
        sample_rate: int,
        state: bytes = b"",
        keeps_start: bool = False,
    ) -> None:
        """`state`: of the stream that this one continues. `keeps_start`: of the first chunk."""
        leading = params.remove_leading_milliseconds * sample_rate // 1000
        trailing = params.remove_trailing_milliseconds * sample_rate // 1000
        fade = params.crossfade_duration_milliseconds * sample_rate // 1000
        self._trim = _Trim(leading, trailing, skip=0 if keeps_start else leading)
        self._join = _Join(fade if params.chunk_overlap_method == "full" else 0)
        self._sample_rate = sample_rate
        self._join.seam = np.frombuffer(state, np.float32)

    @property
    def state(self) -> bytes:
        """What is held back between two text chunks."""
        return self._join.seam.tobytes()

    def push(self, audio: Samples, last: bool, pause_s: float = 0.0) -> Samples:
        """Add `audio`, float32 [n]; `last` ends the text chunk, before a pause. Gives float32 [m].

        Held back are the trailing trim, the fade and, at the start of a chunk that fades in, as
        much as decides the length of that fade.
        """
        joined = self._join.push(self._trim.push(audio, last), last)
        if not pause_s:
            return joined
        silence: Samples = np.zeros(round(pause_s * self._sample_rate), np.float32)
        return np.concatenate((joined, self._join.take_seam(), silence))

    def finish(self) -> Samples:
        """The rest of the stream, float32 [m]; a chunk still open ends here."""
        return np.concatenate((self.push(_NOTHING, last=True), self._join.take_seam()))


class _Trim:
    """Cuts `lead` samples off the start of every chunk, `trail` off its end.

    `skip`: in place of `lead` for the first chunk.
    """

    def __init__(self, lead: int, trail: int, skip: int) -> None:
        self._lead = lead
        self._trail = trail
        self._skip = skip  # samples of this chunk still to be dropped
        self._held = _NOTHING  # may be its end

    def push(self, audio: Samples, last: bool) -> Samples:
        kept: Samples = np.concatenate((self._held, audio[self._skip :]))
        self._skip = max(0, self._skip - len(audio))
        safe = max(0, len(kept) - self._trail)
        self._held = kept[safe:]
        if last:
            self._skip, self._held = self._lead, _NOTHING
        return kept[:safe]


class _Join:
    """Crossfades every chunk into the one before, over at most `fade` samples."""

    def __init__(self, fade: int) -> None:
        self.seam = _NOTHING  # the end of the chunk before, until this one meets it
        self._fade = fade
        self._held = _NOTHING  # may be the end of this chunk
        self._length = 0  # of this chunk so far

    def take_seam(self) -> Samples:
        """The end of the last chunk, which no other is to meet."""
        seam, self.seam = self.seam, _NOTHING
        return seam

    def push(self, audio: Samples, last: bool) -> Samples:
        self._held = np.concatenate((self._held, audio))
        self._length += len(audio)
        half = self._length // 2
        if self._length == 0 or (half < len(self.seam) and not last):
            return _NOTHING

        joined = _overlapped(self.seam, self._held, min(len(self.seam), half))
        safe = len(joined) - min(self._fade, half)
        if last:
            self.seam, self._held, self._length = joined[safe:], _NOTHING, 0
        else:
            self.seam, self._held = _NOTHING, joined[safe:]
        return joined[:safe]


def _overlapped(before: Samples, after: Samples, overlap: int) -> Samples:
    """`before`, then `after`, crossfaded over `overlap` samples."""
    cut = len(before) - overlap
    faded = crossfade(before[cut:], after[:overlap])
    return np.concatenate((before[:cut], faded, after[overlap:]))


def crossfade(tail: Samples, head: Samples) -> Samples:
    """From all `tail` to all `head`, float32 [n] each, at equal power: cos² + sin² = 1."""
    angle: Samples = np.linspace(0, np.pi / 2, len(tail), dtype=np.float32)
    faded: Samples = tail * np.cos(angle) + head * np.sin(angle)
    return faded


def to_int16(audio: Samples) -> bytes:
    """`audio`, float32 [n], clamped to ±1, as int16 little-endian. Raises `EngineFailed`."""
    if not np.isfinite(audio).all():
        raise EngineFailed("The model produced samples that are not numbers.")
    scaled: Samples = np.rint(np.clip(audio, -1, 1) * 32767)
    return scaled.astype("<i2").tobytes()
