from functools import cache

import pytest
import torch

from app.bench.checkpoint import make_checkpoint, tiny_sizes
from app.bench.package_models import load_package_model
from app.engines.chatterbox.checkpoint.loader import load
from app.engines.chatterbox.variants import VARIANTS


@pytest.fixture(scope="package", autouse=True)
def _one_thread():
    """At tiny size several threads are slower than one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def checkpoint_of(tmp_path_factory):
    """`checkpoint_of(variant)`: a tiny checkpoint.

    Must be loaded inside `tiny_sizes()` and not be written to.
    """

    @cache
    def checkpoint_of(variant):
        return make_checkpoint(tmp_path_factory.mktemp(variant), end_at=50, variant=variant)

    return checkpoint_of


@pytest.fixture(scope="session")
def models_of(checkpoint_of):
    """`models_of(variant)`: its tiny checkpoint; not to be changed."""

    @cache
    def models_of(variant):
        with tiny_sizes():
            return load(checkpoint_of(variant), "cpu", spec=VARIANTS[variant])

    return models_of


@pytest.fixture(scope="session")
def upstream_of(checkpoint_of):
    """`upstream_of(variant)`: its tiny checkpoint loaded by upstream; only `conds` may change."""

    @cache
    def upstream_of(variant):
        with tiny_sizes():
            return load_package_model(variant, checkpoint_of(variant), "cpu")

    return upstream_of


@pytest.fixture(scope="session")
def tiny_checkpoint(checkpoint_of):
    """The tiny checkpoint of English."""
    return checkpoint_of("chatterbox")


@pytest.fixture(scope="session")
def models(models_of):
    return models_of("chatterbox")


@pytest.fixture(scope="session")
def upstream(upstream_of):
    return upstream_of("chatterbox")
