"""Vocode an utterance's growing mel, returning the new samples each time; used by `stream`.

Each call vocodes a window at the end of the mel and carries over the excitation and its phase.
Samples that the look-ahead may still change are held back.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from app.engines.chatterbox.s3gen.constants import (
    F0_RECEPTIVE_FIELD,
    FILTER_RECEPTIVE_FIELD,
    LOOKAHEAD_FRAMES,
)
from app.engines.chatterbox.s3gen.noise import Noise, NoiseStream
from app.engines.chatterbox.s3gen.vocoder import Vocoder


class StreamingVocoder:
    """The waveform of one utterance.

    Each call may bring a different version of the mel so far. Samples once emitted stay; the next
    ones are crossfaded from the older version to the newer over `fade` samples.
    """

    def __init__(self, vocoder: Vocoder, noise: Noise, fade: int) -> None:
        self._vocoder = vocoder
        self._noise = noise
        self._fade = fade
        self._phases = noise.phases(vocoder.harmonics)
        self._phases[0] = 0  # the fundamental's
        self._excitation = self._phases[:0]  # the part that later frames cannot change
        self._phase_cycles = self._phases.new_zeros((), dtype=torch.float64)  # at its end
        self._emitted = 0  # samples
        self._tail = self._excitation  # the last version of the samples after the emitted ones

    def extend(self, mel: Tensor, last: bool) -> Tensor:
        """Return the samples that are now final, float32 [n]; all remaining ones if `last`.

        `mel`, float32 [80, n]: the newest version of all frames so far. A call that raises changes
        nothing.
        """
        frames, length = mel.shape[1], self._vocoder.samples_per_frame
        first = max(0, self._emitted // length - FILTER_RECEPTIVE_FIELD)
        size = self._vocoder.window(frames - first)
        if size <= frames:
            first = frames - size
        elif last:
            size = frames - first
        padding = first + size - frames  # frames, as if more were to come
        window = F.pad(mel[None, :, first:], (0, padding)).contiguous()
        excitation, phase_cycles = self._excite(window, first, frames)
        padded = F.pad(excitation[None, first * length :], (0, padding * length))
        audio = self._vocoder.filter(window, padded)[0]

        ready = frames if last else max(0, frames - LOOKAHEAD_FRAMES)
        new = audio[self._emitted - first * length : (ready - first) * length]
        new = crossfade(self._tail, new)
        final = len(new) if last else max(0, len(new) - self._fade)

        stable = max(0, frames - F0_RECEPTIVE_FIELD)
        self._phase_cycles = phase_cycles[stable - frames - 1] % 1
        self._excitation = excitation[: stable * length]
        self._emitted += final
        self._tail = new[final:]
        return new[:final]

    def _excite(self, window: Tensor, first: int, frames: int) -> tuple[Tensor, Tensor]:
        """The excitation of all `frames`, float32 [480·frames], and the new ones' phase cycles.

        `window`: the mel from frame `first` on, float32 [1, 80, n], n at least frames - first.
        """
        stable = len(self._excitation) // self._vocoder.samples_per_frame
        f0 = self._vocoder.f0(window)[0, stable - first : frames - first]
        harmonics = self._vocoder.harmonics
        width = self._vocoder.samples_per_frame * harmonics
        noise = self._noise.frames(NoiseStream.EXCITATION, stable, stable + len(f0), width)
        new, phase_cycles = self._vocoder.excitation(
            f0, self._phase_cycles, self._phases, noise.view(-1, harmonics)
        )
        return torch.cat([self._excitation, new]), phase_cycles


def crossfade(before: Tensor, after: Tensor) -> Tensor:
    """Fade linearly from `before`, float32 [at most n], to `after`, [n]: the same samples anew."""
    weight = torch.linspace(0, 1, len(before), device=after.device)
    return torch.cat([before.lerp(after[: len(before)], weight), after[len(before) :]])
