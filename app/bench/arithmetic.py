"""Floating-point operations of S3Gen's stages, beside the rate of a plain matrix product.

The share of that rate that a stage reaches says how much faster its code could become on the same
machine. Called by `bench.engine_process`; the formulas are those of the full-size models.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from time import perf_counter
from typing import Any
from unittest import mock

import torch

from app.engines.chatterbox.s3gen.constants import FRAMES_PER_TOKEN
from app.engines.chatterbox.s3gen.flow import Flow, FlowInput
from app.engines.chatterbox.s3gen.vocoder import Vocoder

FLOW_FLOP_PER_FRAME = 133e6
"""One pass through the flow's estimator without attention, for each mel frame."""

FLOW_FLOP_PER_FRAME_SQUARED = 0.1147e6
"""Attention of the same pass: 56 blocks, eight heads of 64."""

VOCODER_FLOP_PER_FRAME = 0.6e9

GEMM_RUNS = 20


def flow_flop(frames: int, passes: int) -> float:
    """Operations of a solve of `frames` mel frames, the prompt's included."""
    return passes * (FLOW_FLOP_PER_FRAME + FLOW_FLOP_PER_FRAME_SQUARED * frames) * frames


def gemm_gflops(size: int = 1024) -> float:
    """Return the median rate of a float32 product of square matrices on the CPU, in GFLOP/s."""
    left, right = torch.randn(2, size, size)
    seconds = []
    for _ in range(GEMM_RUNS):
        began = perf_counter()
        torch.mm(left, right)
        seconds.append(perf_counter() - began)
    return 2 * size**3 / median(seconds) / 1e9


@contextmanager
def counted_flop() -> Iterator[dict[str, float]]:
    """Yield the operations of "flow" and "vocoder" that run inside, counted from their shapes."""
    counted = {"flow": 0.0, "vocoder": 0.0}
    solve, filter_mel = Flow.solve, Vocoder.filter

    def counted_solve(flow: Flow, inputs: Any, on_step: Any) -> Any:
        passes = (len(flow.solver.times) - 1) * flow.solver.rows_per_input
        counted["flow"] += sum(flow_flop(frames_of(item), passes) for item in inputs)
        return solve(flow, inputs, on_step)

    def counted_filter(vocoder: Vocoder, mel: torch.Tensor, excitation: torch.Tensor) -> Any:
        counted["vocoder"] += VOCODER_FLOP_PER_FRAME * mel.shape[0] * mel.shape[2]
        return filter_mel(vocoder, mel, excitation)

    with (
        mock.patch.object(Flow, "solve", counted_solve),
        mock.patch.object(Vocoder, "filter", counted_filter),
    ):
        yield counted


def frames_of(item: FlowInput) -> int:
    return item.prompt.prompt_token.shape[1] * FRAMES_PER_TOKEN + item.new_frames
