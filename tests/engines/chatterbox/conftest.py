from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from chatterbox import ChatterboxTTS

from app.bench.checkpoint import make_checkpoint, tiny_sizes
from app.engines.chatterbox.checkpoint.loader import Models, load


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    """At tiny size more of them only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """To be loaded, by whomever, inside `tiny_sizes()`; not to be written to."""
    return make_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def models(tiny_checkpoint: Path) -> Models:
    """That checkpoint, loaded; not to be changed."""
    with tiny_sizes():
        return load(tiny_checkpoint, "cpu")


@pytest.fixture(scope="session")
def upstream(tiny_checkpoint: Path) -> ChatterboxTTS:
    """The same, loaded by the package itself; its `conds` may be set, nothing else."""
    with tiny_sizes():
        return ChatterboxTTS.from_local(tiny_checkpoint, "cpu")
