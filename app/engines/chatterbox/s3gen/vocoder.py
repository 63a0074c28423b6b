"""Vocode mel frames to samples. `waveform` calls the vocoder's parts for each slice.

It is upstream's HiFT: F0 for each frame, a harmonic excitation with that F0, and a network that
filters the excitation with the mel. The parts have no state.
"""

import torch
import torch.nn.functional as F
from chatterbox.models.s3gen.hifigan import HiFTGenerator
from torch import Tensor, nn
from torch.nn.utils import parametrize

from app.engines.chatterbox.runtime.cuda_graphs import GraphCapturer
from app.engines.chatterbox.s3gen.constants import MEL_BANDS

WINDOW_BUCKETS = (64, 96, 128, 192, 256, 384)
"""Numbers of frames for which CUDA graphs are captured."""


class Vocoder:
    """HiFT's three parts, 480 samples a frame. `hift` is changed in place."""

    def __init__(self, hift: HiFTGenerator) -> None:
        fold_weight_norm(hift)
        for convolution in hift.source_downs:  # NumPy integers would break the compiler's graph
            convolution.stride = tuple(map(int, convolution.stride))
            convolution.padding = tuple(map(int, convolution.padding))
        hift.stft_window = hift.stft_window.to(hift.conv_post.weight.device)
        self._spectrum = SpectrumFilter(hift)
        self._hift = hift
        self.samples_per_frame = int(hift.f0_upsamp.scale_factor)
        self.harmonics = hift.nb_harmonics + 1
        self._sines = hift.m_source.l_sin_gen
        self._merge = nn.Sequential(hift.m_source.l_linear, hift.m_source.l_tanh)

    def warm_up(self) -> None:
        """Nothing to do where shapes vary."""

    def window(self, frames: int) -> int:
        """The smallest number of frames, at least `frames`, that can be computed quickly."""
        return frames

    def f0(self, mel: Tensor) -> Tensor:
        """F0 in Hz, float32 [1, n], of `mel`, float32 [1, 80, n]."""
        hz: Tensor = self._hift.f0_predictor(mel)
        return hz

    def excitation(
        self, f0: Tensor, start: Tensor, phases: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Sum of harmonics and noise for `f0`, float32 [n] in Hz: float32 [480·n].

        Also returns the phase of the fundamental in cycles before each frame and after the last,
        float64 [n + 1]. `start`, float64 []: that phase before the first frame. `phases`, float32
        [9]: initial phases of the harmonics in radians. `noise`, float32 [480·n, 9]: standard
        normal. As upstream's `SineGen`, which accumulates phase in float32.
        """
        sines, length = self._sines, self.samples_per_frame
        per_sample = f0.double() / sines.sampling_rate
        phase_cycles = start + F.pad(per_sample.cumsum(0) * length, (1, 0))
        steps = torch.arange(1, length + 1, device=f0.device)
        cycles = (phase_cycles[:-1, None] + per_sample[:, None] * steps).view(-1, 1)
        orders = torch.arange(1, self.harmonics + 1, device=f0.device)
        angles = 2 * torch.pi * (cycles * orders % 1).float() + phases
        voiced = (f0 > sines.voiced_threshold).float().repeat_interleave(length)[:, None]
        noise_level = voiced * sines.noise_std + (1 - voiced) * sines.sine_amp / 3
        merged: Tensor = self._merge(voiced * sines.sine_amp * angles.sin() + noise_level * noise)
        return merged[:, 0], phase_cycles

    def filter(self, mel: Tensor, excitation: Tensor) -> Tensor:
        """As upstream's `decode`: float32 [1, 80, n] and [1, 480·n] → float32 [1, 480·n]."""
        hift = self._hift
        spectrum = torch.cat(hift._stft(excitation), dim=1)
        magnitude, phase = self._spectrum(mel, spectrum)
        audio = inverse_stft(torch.polar(magnitude.clip(max=100), phase), hift.stft_window)
        limited: Tensor = audio.clamp(-hift.audio_limit, hift.audio_limit)
        return limited


class StaticShapeVocoder(Vocoder):
    """Runs windows of `WINDOW_BUCKETS` frames as CUDA graphs, whose inputs are fixed buffers."""

    def __init__(self, hift: HiFTGenerator, capturer: GraphCapturer) -> None:
        super().__init__(hift)
        self._f0_graphs = capturer.wrap(self._run_f0)
        self._filter_graphs = capturer.wrap(self._run_filter)
        weight = hift.conv_post.weight
        self._mel: Tensor = weight.new_zeros(MEL_BANDS * WINDOW_BUCKETS[-1])
        self._excitation: Tensor = weight.new_zeros(self.samples_per_frame * WINDOW_BUCKETS[-1])

    def warm_up(self) -> None:
        for frames in reversed(WINDOW_BUCKETS):
            self._f0_graphs.capture(frames)
            self._filter_graphs.capture(frames)

    def window(self, frames: int) -> int:
        return next((length for length in WINDOW_BUCKETS if length >= frames), frames)

    def f0(self, mel: Tensor) -> Tensor:
        if mel.shape[2] not in WINDOW_BUCKETS:
            return super().f0(mel)
        _copy_in(self._mel, mel)
        return self._f0_graphs(mel.shape[2]).clone()

    def filter(self, mel: Tensor, excitation: Tensor) -> Tensor:
        if mel.shape[2] not in WINDOW_BUCKETS:
            return super().filter(mel, excitation)
        _copy_in(self._mel, mel)
        _copy_in(self._excitation, excitation)
        return self._filter_graphs(mel.shape[2]).clone()

    def _run_f0(self, frames: int) -> Tensor:
        return super().f0(self._mel_window(frames))

    def _run_filter(self, frames: int) -> Tensor:
        excitation = self._excitation[: self.samples_per_frame * frames]
        return super().filter(self._mel_window(frames), excitation[None])

    def _mel_window(self, frames: int) -> Tensor:
        return self._mel[: MEL_BANDS * frames].view(1, MEL_BANDS, frames)


def _copy_in(buffer: Tensor, content: Tensor) -> None:
    buffer[: content.numel()].view(content.shape).copy_(content)


class SpectrumFilter(nn.Module):
    """The layers of HiFT that filter the excitation's spectrum with the mel."""

    def __init__(self, hift: HiFTGenerator) -> None:
        super().__init__()
        self.hift = hift
        self.bins = hift.istft_params["n_fft"] // 2 + 1

    def forward(self, mel: Tensor, excitation: Tensor) -> tuple[Tensor, Tensor]:
        """Magnitude and phase, float32 [1, 9, 120·n + 1] each.

        `mel`: float32 [1, 80, n]. `excitation`: its spectrum's real and imaginary parts, float32
        [1, 18, 120·n + 1].
        """
        hift, kernels = self.hift, self.hift.num_kernels
        x = hift.conv_pre(mel)
        for stage, upsample in enumerate(hift.ups):
            x = upsample(F.leaky_relu(x, hift.lrelu_slope))
            if stage == hift.num_upsamples - 1:
                x = hift.reflection_pad(x)
            x = x + hift.source_resblocks[stage](hift.source_downs[stage](excitation))
            blocks = hift.resblocks[stage * kernels : (stage + 1) * kernels]
            x = sum(block(x) for block in blocks) / kernels
        x = hift.conv_post(F.leaky_relu(x))
        return x[:, : self.bins].exp(), x[:, self.bins :].sin()


def inverse_stft(spectrum: Tensor, window: Tensor) -> Tensor:
    """`torch.istft` of `spectrum`, complex64 [1, bins, n], with hops of a quarter of the `window`.

    `window`: float32 [2·(bins - 1)]. torch's own waits for the GPU to check the window.
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


def fold_weight_norm(module: nn.Module) -> None:
    """Replace weight-normalised parameters by their values; copies of `module` become unusable."""
    for part in module.modules():
        if parametrize.is_parametrized(part, "weight"):
            parametrize.remove_parametrizations(part, "weight")
