import pytest
import torch
from chatterbox import ChatterboxTTS

from app.bench.checkpoint import make_checkpoint, tiny_sizes
from app.engines.chatterbox.checkpoint.loader import load


@pytest.fixture(scope="package", autouse=True)
def _one_thread():
    """At tiny size several threads are slower than one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory):
    """Must be loaded inside `tiny_sizes()` and not be written to."""
    return make_checkpoint(tmp_path_factory.mktemp("tiny"), end_at=50)


@pytest.fixture(scope="session")
def models(tiny_checkpoint):
    """The tiny checkpoint; not to be changed."""
    with tiny_sizes():
        return load(tiny_checkpoint, "cpu")


@pytest.fixture(scope="session")
def upstream(tiny_checkpoint):
    """The tiny checkpoint loaded by upstream; only its `conds` may be changed."""
    with tiny_sizes():
        return ChatterboxTTS.from_local(tiny_checkpoint, "cpu")
