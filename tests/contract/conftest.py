from collections.abc import Iterator

import httpx
import pytest

from tests.support.contract import ContractService, contract_service


@pytest.fixture(scope="module")
def service(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ContractService]:
    """A service of the module's own, with the module's `SETTINGS`."""
    folder = tmp_path_factory.mktemp("around") / "the-service"
    folder.mkdir()
    with contract_service(folder, **getattr(request.module, "SETTINGS", {})) as service:
        yield service


@pytest.fixture(scope="module")
def client(service: ContractService) -> Iterator[httpx.Client]:
    with service.client() as client:
        yield client


@pytest.fixture(scope="module")
def stranger(service: ContractService) -> Iterator[httpx.Client]:
    """A client without a key."""
    with service.client(headers={}) as client:
        yield client
