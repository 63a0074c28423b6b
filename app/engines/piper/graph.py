"""A Piper voice's network, split into the three parts that streaming needs.

Piper publishes a voice as one ONNX graph (VITS), which draws its noise inside. The parts take the
noise from the caller, so that it can be seeded, and the decoder can run on a few frames at a time.

    prior    phoneme ids, duration noise → mean, log deviation and mask of each frame
    flow     these, latent noise         → latents
    decoder  any run of latents          → audio
"""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx.utils import Extractor

from app.core.audio import Samples

CHANNELS = 192
SAMPLES_PER_FRAME = 256
CONTEXT_FRAMES = 11
"""The decoder's receptive field: frames to either side that influence a frame's audio."""

Latents = NDArray[np.float32]
"""The decoder's input, float32 [CHANNELS, frames]."""

# Names of tensors inside the graph, from Piper's export.
_DURATION_NOISE = "/dp/RandomNormalLike_output_0"
_LATENT_NOISE = "/RandomNormalLike_output_0"
_MEAN, _LOG_DEVIATION, _MASK = _PRIOR = [
    "/Transpose_3_output_0",
    "/Transpose_5_output_0",
    "/Cast_2_output_0",
]
_LATENTS = "/Mul_7_output_0"

_CUTS: dict[str, list[int | str]] = {
    _DURATION_NOISE: [1, 2, "phonemes"],
    _MEAN: [1, CHANNELS, "frames"],
    _LOG_DEVIATION: [1, CHANNELS, "frames"],
    _MASK: [1, 1, "frames"],
    _LATENT_NOISE: [1, CHANNELS, "frames"],
    _LATENTS: [1, CHANNELS, "frames"],
}


class PiperGraph:
    """The three parts of the voice in `model_path`, each on `threads` CPU threads."""

    def __init__(self, model_path: Path, threads: int) -> None:
        model = onnx.load(str(model_path))
        model.graph.value_info.extend(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
            for name, shape in _CUTS.items()
        )
        extractor = Extractor(model)

        def part(inputs: list[str], outputs: list[str]) -> onnxruntime.InferenceSession:
            return onnxruntime.InferenceSession(
                extractor.extract_model(inputs, outputs).SerializeToString(),
                _session_options(threads),
                providers=["CPUExecutionProvider"],
            )

        self._prior = part(["input", "input_lengths", "scales", _DURATION_NOISE], _PRIOR)
        self._flow = part([*_PRIOR, "scales", _LATENT_NOISE], [_LATENTS])
        self._decoder = part([_LATENTS], ["output"])

    def latents(
        self, phoneme_ids: list[int], noise: np.random.Generator, scales: NDArray[np.float32]
    ) -> Latents:
        """Encode one sentence. `scales`: of latent noise, durations and duration noise."""
        prior = self._prior.run(
            _PRIOR,
            {
                "input": np.array([phoneme_ids], np.int64),
                "input_lengths": np.array([len(phoneme_ids)], np.int64),
                "scales": scales,
                _DURATION_NOISE: noise.standard_normal((1, 2, len(phoneme_ids)), np.float32),
            },
        )
        frames = dict(zip(_PRIOR, prior, strict=True))
        latent_noise = noise.standard_normal(frames[_MEAN].shape, np.float32)
        [batch] = self._flow.run(
            [_LATENTS], {**frames, "scales": scales, _LATENT_NOISE: latent_noise}
        )
        latents: Latents = batch[0]
        return latents

    def samples(self, latents: Latents) -> Samples:
        """Decode these frames without any context: float32 [frames · SAMPLES_PER_FRAME]."""
        [batch] = self._decoder.run(["output"], {_LATENTS: np.ascontiguousarray(latents)[None]})
        samples: Samples = batch.reshape(-1)
        return samples


def _session_options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # cores are shared
    options.enable_mem_pattern = False  # it caches a plan for every length
    return options
