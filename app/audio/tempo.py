"""Changes the tempo of speech without its pitch.

A `TempoEncoder` is put around another encoder.
"""

from collections.abc import Iterator
from fractions import Fraction

import av

from app.audio.encoder import Encoder
from app.audio.ffmpeg import audio_frame, ffmpeg_errors
from app.core.audio import BYTES_PER_SAMPLE

_STEP_BYTES = 480 * BYTES_PER_SAMPLE
"""atempo delays its output by about the size of its input pieces, beside its 0.1 s window."""


class TimeStretch:
    """Plays one stream of mono PCM `speed` (0.25 to 4) times as fast, by FFmpeg's `atempo`.

    The output does not depend on how the input is divided, and is 1/`speed` as long to the sample.
    """

    def __init__(self, sample_rate: int, speed: float) -> None:
        self._sample_rate = sample_rate
        self._speed = speed
        self._held = b""  # less than a step
        self._bytes_in = 0
        self._bytes_out = 0
        # One filter cannot slow down to less than half, and skips audio beyond double speed.
        factors = [speed] if 0.5 <= speed <= 2 else [speed**0.5] * 2
        with ffmpeg_errors():
            self._graph = av.filter.Graph()
            source = self._graph.add_abuffer(
                sample_rate=sample_rate,
                format="s16",
                layout="mono",
                time_base=Fraction(1, sample_rate),
            )
            tempos = [self._graph.add("atempo", f"{factor:.9f}") for factor in factors]
            sink = self._graph.add("abuffersink")
            self._graph.link_nodes(source, *tempos, sink).configure()

    def push(self, pcm: bytes) -> bytes:
        """Add `pcm` (int16), return the next output, maybe empty. Raises `EncoderFailed`."""
        pcm = self._held + pcm
        whole = len(pcm) - len(pcm) % _STEP_BYTES
        self._held = pcm[whole:]
        steps = (pcm[start : start + _STEP_BYTES] for start in range(0, whole, _STEP_BYTES))
        return b"".join(map(self._filtered, steps))

    def finish(self) -> bytes:
        """The rest; no call follows. Raises `EncoderFailed`."""
        samples = (self._bytes_in + len(self._held)) // BYTES_PER_SAMPLE
        missing = round(samples / self._speed) * BYTES_PER_SAMPLE - self._bytes_out
        rest = self._filtered(self._held) if self._held else b""
        # A flush would lose up to 50 ms; silence pushes them out.
        while len(rest) < missing:
            rest += self._filtered(bytes(_STEP_BYTES))
        return rest[:missing]

    def _filtered(self, step: bytes) -> bytes:
        with ffmpeg_errors():
            position = self._bytes_in // BYTES_PER_SAMPLE
            self._graph.push(audio_frame(step, self._sample_rate, position))
            stretched = b"".join(self._pull())
        self._bytes_in += len(step)
        self._bytes_out += len(stretched)
        return stretched

    def _pull(self) -> Iterator[bytes]:
        while True:
            try:
                frame = self._graph.pull()
            except av.BlockingIOError:  # needs more input
                return
            yield frame.to_ndarray().tobytes()


class TempoEncoder(Encoder):
    """Passes the audio to another encoder, `speed` times as fast."""

    cpu_bound = True

    def __init__(self, sample_rate: int, speed: float, encoder: Encoder) -> None:
        self.media_type = encoder.media_type
        self._stretch = TimeStretch(sample_rate, speed)
        self._encoder = encoder

    def encode(self, pcm: bytes) -> bytes:
        return self._encoder.encode(self._stretch.push(pcm))

    def finish(self) -> bytes:
        return self._encoder.encode(self._stretch.finish()) + self._encoder.finish()

    def finalize_head(self, head: bytes, file_bytes: int) -> bytes:
        return self._encoder.finalize_head(head, file_bytes)
