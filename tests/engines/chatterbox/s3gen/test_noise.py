import torch

from app.engines.chatterbox.s3gen.noise import Noise, NoiseStream
from tests.support.speech import CPU


def test_noise_of_a_frame_is_independent_of_the_window():
    noise = Noise(1, 0, CPU)
    whole = noise.frames(NoiseStream.FLOW, 0, 200, 80)

    for start, stop in ((0, 1), (0, 32), (31, 33), (64, 64), (100, 200), (150, 161)):
        torch.testing.assert_close(
            noise.frames(NoiseStream.FLOW, start, stop, 80), whole[start:stop], rtol=0, atol=0
        )


def test_seed_utterance_and_stream_each_give_different_noise():
    drawn = [
        Noise(seed, utterance, CPU).frames(stream, 0, 50, 80).flatten()
        for seed, utterance in ((1, 0), (1, 1), (2, 0), (2**32 - 1, 0))
        for stream in (NoiseStream.FLOW, NoiseStream.EXCITATION)
    ]

    correlations = torch.corrcoef(torch.stack(drawn)) - torch.eye(len(drawn))
    assert correlations.abs().max() < 0.1


def test_noise_is_standard_normal_without_repeated_frames():
    frames = Noise(1, 0, CPU).frames(NoiseStream.FLOW, 0, 1000, 80)

    assert abs(frames.mean()) < 0.02
    assert abs(frames.std() - 1) < 0.02
    assert len(frames.unique(dim=0)) == 1000


def test_phases_cover_the_circle():
    phases = torch.stack([Noise(seed, 0, CPU).phases(9) for seed in range(200)])

    assert phases.min() < -3.1
    assert phases.max() > 3.1
    assert phases.abs().max() <= torch.pi
