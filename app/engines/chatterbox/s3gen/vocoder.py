"""The vocoder: mel frames enter, samples leave; called by `s3gen` slice by slice.

It is upstream's HiFT: a pitch for each frame, a harmonic source with that pitch, and a network
that filters the source into what the mel says. Upstream takes whole utterances only. Here one can
grow slice by slice, because all that upstream begins anew in each call is carried over (the source
and its phase) or depends on the position alone (the noise).
"""

import torch
import torch.nn.functional as F
from chatterbox.models.s3gen.hifigan import HiFTGenerator
from torch import Tensor, nn
from torch.nn.utils import parametrize

from app.engines.chatterbox.conditioning.conditionals import MEL_BANDS
from app.engines.chatterbox.runtime.cuda_graphs import EAGER, GraphCapturer
from app.engines.chatterbox.s3gen.noise import Noise, Use

PITCH_REACH = 5
"""Frames, to either side, that have a say in a frame's pitch."""

FILTER_REACH = 12
"""Frames, to either side, of mel and source that have a say in a sample; the thirteenth and
fourteenth have one that is lost in rounding."""

HELD_BACK = PITCH_REACH + FILTER_REACH
"""Frames at the end of a mel whose samples may still change when more of it comes."""

WINDOWS = (64, 96, 128, 192, 256, 384)
"""Frames that a GPU has recordings for."""


class Vocoder:
    """HiFT's three parts, without state; 480 samples a frame.

    `hift` is changed in place: see `fold_weight_norm`.
    """

    def __init__(
        self,
        hift: HiFTGenerator,
        capturer: GraphCapturer = EAGER,
    ) -> None:
        fold_weight_norm(hift)
        for convolution in hift.source_downs:  # given NumPy's integers, which break the graph
            convolution.stride = tuple(map(int, convolution.stride))
            convolution.padding = tuple(map(int, convolution.padding))
        hift.stft_window = hift.stft_window.to(hift.conv_post.weight.device)
        self._spectrum = SpectrumFilter(hift)
        self._hift = hift
        self.samples_per_frame = int(hift.f0_upsamp.scale_factor)
        self.harmonics = hift.nb_harmonics + 1
        self._sines = hift.m_source.l_sin_gen
        self._merge = nn.Sequential(hift.m_source.l_linear, hift.m_source.l_tanh)
        self._fixed = FixedVocoder(self, capturer) if capturer.static_shapes else None

    def warm_up(self) -> None:
        """Where lengths are few, run in each."""
        if self._fixed:
            self._fixed.warm_up()

    def window(self, frames: int) -> int:
        """At least as many frames, in which the other methods are quicker, if there are."""
        usual = WINDOWS if self._fixed else ()
        return next((length for length in usual if length >= frames), frames)

    def pitch(self, mel: Tensor) -> Tensor:
        """Hz, float32 [1, n], for `mel`, float32 [1, 80, n]."""
        if self._fixed and mel.shape[2] in WINDOWS:
            return self._fixed.pitch(mel)
        return self.pitch_as_written(mel)

    def pitch_as_written(self, mel: Tensor) -> Tensor:
        """`pitch` in whatever length, unrecorded."""
        hz: Tensor = self._hift.f0_predictor(mel)
        return hz

    def source(
        self, pitch: Tensor, start: Tensor, phases: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The source for `pitch`, float32 [n] in Hz: float32 [480·n], and how many periods have
        passed before each frame and after the last, float64 [n + 1].

        `start`, float64 [], have passed before the first; `phases`, float32 [9], are where the
        harmonics began, in radians; `noise`, float32 [480·n, 9], is standard normal.

        Upstream's `SineGen` counts in float32, and after ten seconds its harmonics are 0.01 rad
        out of phase; otherwise this is the same.
        """
        sines, length = self._sines, self.samples_per_frame
        per_sample = pitch.double() / sines.sampling_rate
        edges = start + F.pad(per_sample.cumsum(0) * length, (1, 0))
        steps = torch.arange(1, length + 1, device=pitch.device)
        passed = (edges[:-1, None] + per_sample[:, None] * steps).view(-1, 1)
        orders = torch.arange(1, self.harmonics + 1, device=pitch.device)
        angles = 2 * torch.pi * (passed * orders % 1).float() + phases
        voiced = (pitch > sines.voiced_threshold).float().repeat_interleave(length)[:, None]
        loudness = voiced * sines.noise_std + (1 - voiced) * sines.sine_amp / 3
        merged: Tensor = self._merge(voiced * sines.sine_amp * angles.sin() + loudness * noise)
        return merged[:, 0], edges

    def filter(self, mel: Tensor, source: Tensor) -> Tensor:
        """The audio, float32 [1, 480·n], for `mel`, float32 [1, 80, n], and `source`, [1, 480·n].

        As upstream's `HiFTGenerator.decode`.
        """
        if self._fixed and mel.shape[2] in WINDOWS:
            return self._fixed.filter(mel, source)
        return self.filter_as_written(mel, source)

    def filter_as_written(self, mel: Tensor, source: Tensor) -> Tensor:
        """`filter` in whatever length, unrecorded."""
        hift = self._hift
        spectrum = torch.cat(hift._stft(source), dim=1)
        magnitude, phase = self._spectrum(mel, spectrum)
        audio = inverse_stft(torch.polar(magnitude.clip(max=100), phase), hift.stft_window)
        limited: Tensor = audio.clamp(-hift.audio_limit, hift.audio_limit)
        return limited


class FixedVocoder:
    """Mel and source, in the few lengths of `WINDOWS`, copied to where recordings look for them."""

    def __init__(self, vocoder: Vocoder, capturer: GraphCapturer) -> None:
        self._vocoder = vocoder
        self._pitch = capturer.wrap(self._run_pitch)
        self._filter = capturer.wrap(self._run_filter)
        like = vocoder._hift.conv_post.weight
        self._mel: Tensor = like.new_zeros(MEL_BANDS * WINDOWS[-1])
        self._source: Tensor = like.new_zeros(vocoder.samples_per_frame * WINDOWS[-1])

    def warm_up(self) -> None:
        for frames in reversed(WINDOWS):
            self._pitch.capture(frames)
            self._filter.capture(frames)

    def pitch(self, mel: Tensor) -> Tensor:
        """As `Vocoder.pitch`."""
        self._lay(self._mel, mel)
        return self._pitch(mel.shape[2]).clone()

    def filter(self, mel: Tensor, source: Tensor) -> Tensor:
        """As `Vocoder.filter`."""
        self._lay(self._mel, mel)
        self._lay(self._source, source)
        return self._filter(mel.shape[2]).clone()

    def _lay(self, place: Tensor, content: Tensor) -> None:
        place[: content.numel()].view(content.shape).copy_(content)

    def _run_pitch(self, frames: int) -> Tensor:
        return self._vocoder.pitch_as_written(self._window(frames))

    def _run_filter(self, frames: int) -> Tensor:
        source = self._source[: self._vocoder.samples_per_frame * frames]
        return self._vocoder.filter_as_written(self._window(frames), source[None])

    def _window(self, frames: int) -> Tensor:
        return self._mel[: MEL_BANDS * frames].view(1, MEL_BANDS, frames)


def inverse_stft(spectrum: Tensor, window: Tensor) -> Tensor:
    """What `torch.istft` makes of `spectrum`, complex64 [1, bins, n], with hops of a quarter of
    the `window`, float32 [2·(bins - 1)].

    torch looks whether a window fits its hops, for which it waits for the device.
    """
    length = len(window)
    hop, frames = length // 4, spectrum.shape[2]
    pieces = torch.fft.irfft(spectrum, n=length, dim=1) * window[:, None]
    weights = (window**2)[None, :, None].expand(1, -1, frames)
    size = (frames - 1) * hop + length
    joined, weight = (
        F.fold(each, (1, size), (1, length), stride=(1, hop))[:, 0, 0] for each in (pieces, weights)
    )
    centre = slice(length // 2, size - length // 2)
    audio: Tensor = joined[:, centre] / weight[:, centre]
    return audio


class SpectrumFilter(nn.Module):
    """Filters the source into what the mel says, both as spectra: all of HiFT that has weights."""

    def __init__(self, hift: HiFTGenerator) -> None:
        super().__init__()
        self.hift = hift
        self.bins = hift.istft_params["n_fft"] // 2 + 1

    def forward(self, mel: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
        """Magnitude and phase, float32 [1, 9, 120·n + 1] each.

        `mel`: float32 [1, 80, n]. `source`: real and imaginary parts, float32 [1, 18, 120·n + 1].
        """
        hift, kernels = self.hift, self.hift.num_kernels
        x = hift.conv_pre(mel)
        for stage, upsample in enumerate(hift.ups):
            x = upsample(F.leaky_relu(x, hift.lrelu_slope))
            if stage == hift.num_upsamples - 1:
                x = hift.reflection_pad(x)
            x = x + hift.source_resblocks[stage](hift.source_downs[stage](source))
            blocks = hift.resblocks[stage * kernels : (stage + 1) * kernels]
            x = sum(block(x) for block in blocks) / kernels
        x = hift.conv_post(F.leaky_relu(x))
        return x[:, : self.bins].exp(), x[:, self.bins :].sin()


class Waveform:
    """The waveform of one utterance, growing with its mel.

    Every rendition of the mel may differ from the one before. Samples once given stay, and the
    next ones are crossfaded from the older rendition to the newer over `fade` samples.
    """

    def __init__(self, vocoder: Vocoder, noise: Noise, fade: int) -> None:
        self._vocoder = vocoder
        self._noise = noise
        self._fade = fade
        self._phases = noise.phases(vocoder.harmonics)
        self._phases[0] = 0  # the fundamental's
        self._source = self._phases[:0]  # as far as no later frame can change it
        self._periods = self._phases.new_zeros((), dtype=torch.float64)  # passed by then
        self._given = 0
        self._tail = self._source  # what the last rendition made of the samples that come next

    def extend(self, mel: Tensor, last: bool) -> Tensor:
        """The samples that are certain now, float32 [n]; all that are left, if `last`.

        `mel`, float32 [80, n], is the newest rendition of all frames so far. A call that raises
        changes nothing.
        """
        frames, length = mel.shape[1], self._vocoder.samples_per_frame
        first = max(0, self._given // length - FILTER_REACH)
        size = self._vocoder.window(frames - first)
        if size <= frames:
            first = frames - size
        elif last:
            size = frames - first
        padding = first + size - frames  # frames, as if more were to come
        window = F.pad(mel[None, :, first:], (0, padding)).contiguous()
        source, edges = self._excite(window, first, frames)
        heard = F.pad(source[None, first * length :], (0, padding * length))
        audio = self._vocoder.filter(window, heard)[0]

        ready = frames if last else max(0, frames - HELD_BACK)
        fresh = audio[self._given - first * length : (ready - first) * length]
        fresh = crossfade(self._tail, fresh)
        certain = len(fresh) if last else max(0, len(fresh) - self._fade)

        settled = max(0, frames - PITCH_REACH)
        self._periods = edges[settled - frames - 1] % 1
        self._source = source[: settled * length]
        self._given += certain
        self._tail = fresh[certain:]
        return fresh[:certain]

    def _excite(self, window: Tensor, first: int, frames: int) -> tuple[Tensor, Tensor]:
        """The source of all `frames`, float32 [480·frames], and `Vocoder.source`'s edges of the new
        ones.

        `window`: the mel from frame `first` on, float32 [1, 80, n], n at least frames - first.
        """
        settled = len(self._source) // self._vocoder.samples_per_frame
        pitch = self._vocoder.pitch(window)[0, settled - first : frames - first]
        width = self._vocoder.samples_per_frame * self._vocoder.harmonics
        noise = self._noise.frames(Use.SOURCE, settled, settled + len(pitch), width)
        source, edges = self._vocoder.source(
            pitch, self._periods, self._phases, noise.view(-1, self._vocoder.harmonics)
        )
        return torch.cat([self._source, source]), edges


def crossfade(before: Tensor, after: Tensor) -> Tensor:
    """`after`, float32 [n], but for its start, which changes linearly from `before` to it.

    `before`, float32 [at most n], is the same moment: another rendition, not earlier audio.
    """
    weight = torch.linspace(0, 1, len(before), device=after.device)
    return torch.cat([before.lerp(after[: len(before)], weight), after[len(before) :]])


def fold_weight_norm(module: nn.Module) -> None:
    """Compute the normalised weights of `module` once and for all, in place.

    Upstream's own remover is for an older kind of weight norm. This one changes the modules'
    classes, so a deep copy made before cannot be used afterwards.
    """
    for part in module.modules():
        if parametrize.is_parametrized(part, "weight"):
            parametrize.remove_parametrizations(part, "weight")
