"""What is compiled is what runs; what cannot be compiled runs as it is written, and says so."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch
from torch._inductor import cudagraph_trees

from app.engines.base import EngineConfig
from app.engines.chatterbox import engine as engine_module
from app.engines.chatterbox.compilation import NO_COMPILER, Compiler, TorchCompiler
from app.engines.chatterbox.engine import ChatterboxEngine
from app.engines.chatterbox.flow import LONGEST, MEL_BANDS, Flow
from app.engines.chatterbox.loading import Models
from app.engines.chatterbox.noise import Noise, Use
from app.engines.chatterbox.t3 import T3Batch, T3Request, tokenize
from app.messages import SynthesisParams
from app.worker.pipeline import Pipeline, QueueSizes
from tests.engines.chatterbox.tiny import TinyChatterbox
from tests.service import Service

TEXT = "Hello. Me."
T3_POSITIONS, T3_SPANS = 512, 2
ONE_FOR_ALL_LENGTHS = 3  # the flow's step, the vocoder's pitch, its filter


class Graphs:
    """A backend for `torch.compile` that runs graphs as they are, counts, and can break one."""

    def __init__(self) -> None:
        self.built = 0
        self.runs: Counter[int] = Counter()
        self.broken: int | None = None

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        number, self.built = self.built, self.built + 1

        def run(*args: Any) -> Any:
            self.runs[number] += 1
            if self.broken == number:
                raise ArithmeticError("this graph is broken")
            return graph(*args)

        return run


def config(checkpoint: Path, **changes: Any) -> EngineConfig:
    return EngineConfig("cpu", 1, str(checkpoint), slots=2, watermark=False, **changes)


async def speak(engine: ChatterboxEngine, text: str = TEXT, **params: Any) -> bytes:
    pieces: list[bytes] = []

    async def emit(pcm: bytes) -> None:
        pieces.append(pcm)

    pipeline = Pipeline(engine, QueueSizes(2, 3))
    try:
        await pipeline.run(text, engine.default_voice, SynthesisParams(**params), emit)
    finally:
        pipeline.close()
    return b"".join(pieces)


@pytest.fixture(autouse=True, scope="module")
def _forget_graphs() -> Iterator[None]:
    torch._dynamo.reset()
    # From torch 2.14 on, the size at which oneDNN takes over a convolution on the CPU decides
    # about graphs, too.
    with torch.backends.mkldnn.flags(enabled=False):
        yield
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def graphs() -> Graphs:
    return Graphs()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plain(tiny_checkpoint: Path) -> AsyncIterator[ChatterboxEngine]:
    """With the linear layers of what is compiled: oneDNN's round differently."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_module, "knows_onednn", lambda device: False)
        engine = TinyChatterbox(config(tiny_checkpoint))
    await engine.warm_up()
    yield engine
    await engine.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def compiled(tiny_checkpoint: Path, graphs: Graphs) -> AsyncIterator[ChatterboxEngine]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_module, "T3Batch", partial(T3Batch, max_positions=T3_POSITIONS))
        patch.setattr(engine_module, "TorchCompiler", partial(TorchCompiler, backend=graphs))
        engine = TinyChatterbox(config(tiny_checkpoint, torch_compile=True))
    await engine.warm_up()
    yield engine
    await engine.close()


@pytest.mark.asyncio(loop_scope="module")
async def test_after_warm_up_no_request_makes_a_new_graph(
    plain: ChatterboxEngine, compiled: ChatterboxEngine, graphs: Graphs
) -> None:
    assert (plain.compiled, compiled.compiled, compiled.notice) == (False, True, None)
    assert graphs.built == T3_SPANS + ONE_FOR_ALL_LENGTHS
    for params in (
        {"seed": 1},
        {"seed": 2, "audio_tokens_per_slice": 5, "text_processing_chunk_size": 6},
        {"seed": 3, "chunk_overlap_method": "zero", "cfg_guidance_weight": 0.0},
    ):
        graphs.runs.clear()
        assert await speak(compiled, **params) == await speak(plain, **params)
        assert graphs.runs.total() > ONE_FOR_ALL_LENGTHS
    assert graphs.built == T3_SPANS + ONE_FOR_ALL_LENGTHS


@pytest.mark.asyncio(loop_scope="module")
async def test_a_request_fails_if_any_compiled_function_does(
    compiled: ChatterboxEngine, graphs: Graphs
) -> None:
    graphs.runs.clear()
    await speak(compiled)
    used = dict(graphs.runs)
    assert len(used) >= 1 + ONE_FOR_ALL_LENGTHS
    for graph in used:
        graphs.broken = graph
        with pytest.raises(ArithmeticError):
            await speak(compiled)
    graphs.broken = None
    assert await speak(compiled)


@pytest.mark.asyncio(loop_scope="module")
async def test_what_cannot_be_compiled_speaks_all_the_same(
    tiny_checkpoint: Path,
    plain: ChatterboxEngine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def no_backend(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        raise FileNotFoundError("no such compiler")

    torch._dynamo.reset()
    monkeypatch.setattr(engine_module, "TorchCompiler", partial(TorchCompiler, backend=no_backend))
    engine = TinyChatterbox(config(tiny_checkpoint, torch_compile=True))
    await engine.warm_up()
    assert not engine.compiled
    assert engine.notice == (
        "not compiled, speech takes longer: FileNotFoundError: no such compiler"
    )
    assert engine.notice in caplog.text
    assert await speak(engine, seed=1) == await speak(plain, seed=1)
    await engine.close()


@pytest.mark.heavy
def test_every_width_of_a_step_has_its_graph(models: Models) -> None:
    """Nine, more than torch makes unless it is told so, on a thread like the engine's."""
    graphs, runs = Graphs(), 0
    compiler = TorchCompiler(models.device, graphs)
    compiler.rehearsals = 2
    batch = T3Batch(models.t3, slots=300, max_positions=256, compiler=compiler)
    with ThreadPoolExecutor(1, initializer=compiler.adopt_thread) as thread:
        for _ in thread.submit(lambda: list(batch.warm_up())).result():
            runs += 2
    assert (graphs.built, graphs.runs.total()) == (9, runs)


@torch.inference_mode()
def test_the_flow_has_one_graph_for_all_its_buckets(models: Models) -> None:
    graphs = Graphs()
    compiler = TorchCompiler(models.device, graphs)
    compiler.bucket = 1250
    flow = Flow(models.s3gen.flow, compiler)
    flow.warm_up()
    assert (graphs.built, graphs.runs.total()) == (1, LONGEST / 1250)
    reference = models.default_voice.s3gen
    tokens = torch.arange(60)
    noise = Noise(1, 0, models.device).frames(Use.FLOW, 0, 220, MEL_BANDS)
    plain = Flow(models.s3gen.flow).solve(tokens, reference, noise, lambda: None)
    mel = flow.solve(tokens, reference, noise, lambda: None)
    assert mel.shape == plain.shape
    assert (mel - plain).abs().max() < 1e-4 * (plain.max() - plain.min())
    assert graphs.built == 1


@pytest.mark.heavy
def test_without_a_c_compiler_the_service_speaks_all_the_same(
    start: Callable[..., Service], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    service = start(
        MODEL="tests.engines.chatterbox.tiny:TinyChatterbox",
        MODEL_PATH=tiny_checkpoint,
        TORCH_COMPILE="true",
        CXX=str(tmp_path / "no-compiler"),
        TORCHINDUCTOR_CACHE_DIR=tmp_path,
    )
    with service.client() as client:
        health = client.get("/health").json()
        assert client.post("/tts/generate", json={"text": TEXT}).content
    assert not health["compiled"]
    assert "not compiled" in health["notice"]


@pytest.mark.heavy
def test_t3_compiled_for_real_says_the_same(
    models: Models, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With g++, which torch needs on a CPU."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    request = T3Request(
        tokenize(models.tokenizer, TEXT), models.default_voice, SynthesisParams(), 1, 40
    )

    def tokens(compiler: Compiler) -> list[int | None]:
        batch = T3Batch(models.t3, 1, max_positions=256, compiler=compiler)
        list(batch.warm_up())
        slot = batch.admit(request)
        return [batch.step()[slot].token for _ in range(30)]

    assert tokens(TorchCompiler(models.device)) == tokens(NO_COMPILER)


def test_every_thread_can_have_its_recordings() -> None:
    """As far as can be seen without a GPU: torch finds its book-keeping on a thread of ours."""

    def look() -> list[object]:
        TorchCompiler(torch.device("cuda")).adopt_thread()
        names = ("tree_manager_containers", "tree_manager_locks")
        return [cudagraph_trees.get_obj(cudagraph_trees.local, name) for name in names]

    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(look).result() == [{}, {}]
