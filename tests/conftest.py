import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

import app.settings
from tests.support.service import ROOT, Service, running_service

app.settings.ENV_FILE = Path(os.devnull)  # a developer's own `.env` is not for tests

CHROMIUM = shutil.which("chromium")

# What Hypothesis tries is little and always the same, unless asked for more of it:
#   pytest tests/fuzz --hypothesis-profile=long --timeout=1800
settings.register_profile("short", derandomize=True, deadline=None)
settings.register_profile("long", max_examples=2_000, deadline=None)
settings.load_profile("short")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Under `-n 2`, run all tests of a file in one process, which sets its fixtures up once."""
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False  # pytest_collection_modifyitems has ordered the files
    return LoadFileScheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip browser tests without a browser, unless REQUIRE_BROWSER is set, as it is in CI.

    Parallel processes start with the files that have most slow tests, so that they end together.
    """
    if os.environ.get("PYTEST_XDIST_WORKER"):
        slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
        items.sort(key=lambda item: -slow[item.path])
    if CHROMIUM or os.environ.get("REQUIRE_BROWSER"):
        return
    for item in items:
        if item.get_closest_marker("browser"):
            item.add_marker(pytest.mark.skip(reason="no chromium on this machine"))


@pytest.fixture(scope="session")
def preview(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One preview service with two workers and the shipped voice, for all tests."""
    folder = tmp_path_factory.mktemp("preview")
    with running_service(
        folder,
        MODEL="preview",
        WORKERS_PER_DEVICE=2,
        PRELOADED_VOICES_DIR=ROOT / "preloaded-voices",
    ) as service:
        service.wait_until(lambda: service.ready_workers() == 2, 60)
        yield service


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Return `start(NAME=value, …)`, which starts a service of this test's own."""
    with ExitStack() as services:

        def start(**env: Any) -> Service:
            folder = tmp_path / f"service-{len(list(tmp_path.iterdir()))}"
            folder.mkdir()
            return services.enter_context(running_service(folder, **env))

        yield start
