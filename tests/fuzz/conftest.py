from collections.abc import Iterator

import pytest

from tests.support.service import Service, running_service


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One for all of the fuzzing, in a folder with nothing beside its own. Nothing harms it."""
    folder = tmp_path_factory.mktemp("around") / "the-service"
    folder.mkdir()
    with running_service(
        folder,
        MODEL="tests.support.engines:ReadingEngine",
        CONCURRENT_REQUESTS_PER_WORKER=2,
        MAX_UPLOAD_MB=1,
        LOG_LEVEL="DEBUG",
    ) as service:
        yield service
        assert "Traceback" not in service.log()
        assert [worker["restarts"] for worker in service.status()["workers"]] == [0]
