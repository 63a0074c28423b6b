"""Compiled modules run and give the same speech; if compilation fails, the engine runs without."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch

from app.core.engine_config import EngineConfig, QueueSizes
from app.core.params import SynthesisParams
from app.engines.chatterbox import engine as engine_module
from app.engines.chatterbox.checkpoint.models import Models
from app.engines.chatterbox.engine import ChatterboxEngine
from app.engines.chatterbox.frontend.english import EnglishFrontend
from app.engines.chatterbox.runtime.compilation import NO_COMPILER, Compiler, TorchCompiler
from app.engines.chatterbox.t3.batch import T3Batch
from app.engines.chatterbox.t3.request import T3Request
from app.engines.chatterbox.variants import ENGLISH
from app.pipeline.pipeline import Pipeline
from tests.support.service import Service
from tests.support.tiny_chatterbox import TinyChatterbox

TEXT = "Hello. Me."
PARTS = 2 * 2 + 3 + 1
"""Graphs: T3's two modules, each for one token and for a prompt; the flow's residual networks, of
three sizes, and its transformers."""


class Graphs:
    """A `torch.compile` backend that runs graphs unchanged, counts them, and can break one."""

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
    # From torch 2.14 on, oneDNN's size threshold for convolutions makes additional graphs.
    with torch.backends.mkldnn.flags(enabled=False):
        yield
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def graphs() -> Graphs:
    return Graphs()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plain(tiny_checkpoint: Path) -> AsyncIterator[ChatterboxEngine]:
    """Not compiled, with the same linear layers: oneDNN's round differently."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_module, "has_onednn", lambda device: False)
        engine = TinyChatterbox(config(tiny_checkpoint))
    await engine.warm_up()
    yield engine
    await engine.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def compiled(tiny_checkpoint: Path, graphs: Graphs) -> AsyncIterator[ChatterboxEngine]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_module, "TorchCompiler", partial(TorchCompiler, backend=graphs))
        engine = TinyChatterbox(config(tiny_checkpoint, torch_compile=True))
    await engine.warm_up()
    yield engine
    await engine.close()


@pytest.mark.asyncio(loop_scope="module")
async def test_requests_use_the_graphs_of_the_warm_up(
    plain: ChatterboxEngine, compiled: ChatterboxEngine, graphs: Graphs
) -> None:
    assert (plain.compiled, compiled.compiled, compiled.notice) == (False, True, None)
    assert graphs.built == PARTS
    for params in (
        {"seed": 1},
        {"seed": 2, "audio_tokens_per_slice": 5, "text_processing_chunk_size": 6},
        {"seed": 3, "chunk_overlap_method": "zero", "cfg_guidance_weight": 0.0},
    ):
        graphs.runs.clear()
        assert await speak(compiled, **params) == await speak(plain, **params)
        assert len(graphs.runs) == PARTS
    assert graphs.built == PARTS


@pytest.mark.asyncio(loop_scope="module")
async def test_every_graph_is_used_by_a_request(compiled: ChatterboxEngine, graphs: Graphs) -> None:
    graphs.runs.clear()
    await speak(compiled)
    used = dict(graphs.runs)
    assert len(used) == PARTS
    for graph in used:
        graphs.broken = graph
        with pytest.raises(ArithmeticError):
            await speak(compiled)
    graphs.broken = None
    assert await speak(compiled)


@pytest.mark.heavy
@pytest.mark.asyncio(loop_scope="module")
async def test_engine_runs_without_compilation_if_it_fails(
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
def test_service_runs_without_a_c_compiler(
    start: Callable[..., Service], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    service = start(
        MODEL="tests.support.tiny_chatterbox:TinyChatterbox",
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
def test_t3_compiled_by_inductor_gives_the_same_tokens(
    models: Models, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Needs g++."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    text = EnglishFrontend(models.tokenizer).tokenize(TEXT)
    request = T3Request(text, models.default_voice, SynthesisParams(), 1, 40)

    def tokens(compiler: Compiler) -> list[int | None]:
        batch = T3Batch(models.t3, ENGLISH.t3, 1, max_positions=256, compiler=compiler)
        list(batch.warm_up())
        slot = batch.admit(request)
        return [output.token for _ in range(30) for output in batch.step()[slot]]

    assert tokens(TorchCompiler()) == tokens(NO_COMPILER)
