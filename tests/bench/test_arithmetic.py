"""The formulas, beside what torch counts in upstream's modules of full size."""

from unittest import mock

import pytest
import torch
from chatterbox.models.s3gen import S3Gen
from torch.utils.flop_counter import FlopCounterMode

from app.bench.arithmetic import VOCODER_FLOP_PER_FRAME, flow_flop, gemm_gflops
from app.engines.chatterbox.s3gen.vocoder import fold_weight_norm

NO_CHUNKS = "chatterbox.models.s3gen.decoder.add_optional_chunk_mask"


@pytest.fixture(scope="module")
def s3gen() -> S3Gen:
    """On a device without numbers, which only knows shapes."""
    with torch.device("meta"):
        return S3Gen(meanflow=True).eval()


def test_operations_of_the_flow_are_those_of_its_layers(s3gen: S3Gen) -> None:
    frames = 640
    mel, time = torch.empty(1, 80, frames, device="meta"), torch.empty(1, device="meta")
    speaker, mask = mel[:, :, 0], mel[:, :1]
    with (
        mock.patch(NO_CHUNKS, lambda xs, masks, *others: masks),  # it reads numbers
        torch.device("meta"),
        torch.inference_mode(),
        FlopCounterMode(display=False) as counter,
    ):
        s3gen.flow.decoder.estimator(mel, mask, mel, time, speaker, mel, time)
    assert flow_flop(frames, passes=1) == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_operations_of_the_vocoder_are_those_of_its_layers(s3gen: S3Gen) -> None:
    fold_weight_norm(s3gen.mel2wav)
    frames = 100
    excitation = torch.empty(1, 1, 480 * frames, device="meta")
    with (
        torch.device("meta"),
        torch.inference_mode(),
        FlopCounterMode(display=False) as counter,
    ):
        s3gen.mel2wav.stft_window = s3gen.mel2wav.stft_window.to("meta")
        s3gen.mel2wav.decode(torch.empty(1, 80, frames), excitation)
    expected = VOCODER_FLOP_PER_FRAME * frames
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.05)


def test_rate_of_a_matrix_product_is_plausible() -> None:
    assert 0.01 < gemm_gflops(64) < 1e5
