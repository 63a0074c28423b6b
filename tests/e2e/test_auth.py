"""The API key and a real server; `tests/contract/test_auth.py` has the ways to send it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.contract.test_auth import WRONG, all_routes
from tests.support.service import API_KEY, Service, running_service


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running_service(tmp_path_factory.mktemp("auth"), LOG_LEVEL="DEBUG") as service:
        yield service


@pytest.fixture(scope="module")
def stranger(service: Service) -> Iterator[httpx.Client]:
    """A client without a key."""
    with service.client(headers={}) as client:
        yield client


@pytest.mark.fault(44)
@pytest.mark.covers("default-deny routing")
def test_every_route_needs_the_key(service: Service, stranger: httpx.Client) -> None:
    for method, path in all_routes(service):
        assert stranger.request(method, path).status_code == 401, (method, path)


@pytest.mark.fault(44)
@pytest.mark.parametrize("path", ["/tts/generate", "/voices"])
def test_wrong_key_is_refused_before_the_body_is_read(service: Service, path: str) -> None:
    promised = (
        "Content-Type: application/json\r\nContent-Length: 10000000000\r\nExpect: 100-continue"
    )
    for body in (b"", b'{"text": "abc'):
        with service.connect() as connection:
            head = f"POST {path} HTTP/1.1\r\nHost: x\r\nX-API-Key: {WRONG}\r\n{promised}\r\n\r\n"
            connection.sendall(head.encode() + body)
            assert connection.recv(1000).startswith(b"HTTP/1.1 401 ")


def test_valid_key_gets_100_continue(service: Service) -> None:
    with service.connect() as connection:
        connection.sendall(
            f"POST /tts/generate HTTP/1.1\r\nHost: x\r\nX-API-Key: {API_KEY}\r\n"
            "Content-Type: application/json\r\nContent-Length: 9\r\n"
            "Expect: 100-continue\r\n\r\n".encode()
        )
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")


@pytest.mark.covers("key secrecy")
def test_key_is_not_logged(service: Service, stranger: httpx.Client) -> None:
    for method, path in all_routes(service):
        stranger.request(method, path, params={"api_key": API_KEY, "text": "audio1"})
    for body in (b"{", b'{"text": "raise"}', f'{{"{API_KEY}x": 1}}'.encode()):
        stranger.post("/tts/generate", content=body, headers={"X-API-Key": API_KEY})
    log = service.log()
    assert "/tts/generate" in log
    assert API_KEY not in log


@pytest.mark.covers("key secrecy")
def test_key_is_not_in_environment_or_command_line_of_children(
    start: Callable[..., Service],
) -> None:
    service = start(api_key=API_KEY)  # names of settings are case-insensitive
    children = psutil.Process(service.process.pid).children(recursive=True)
    assert {child.pid for child in children} >= set(service.worker_pids())
    for child in children:
        for file in ("environ", "cmdline"):
            content = Path(f"/proc/{child.pid}/{file}").read_bytes()
            assert content
            assert API_KEY.encode() not in content
