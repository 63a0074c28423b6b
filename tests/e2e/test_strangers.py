"""What a client can do to the service without the key, or with it and without reading.

`tests/server/test_connection.py` has the limits of a connection with short time-outs.
"""

import re
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from time import monotonic, sleep

import httpx
import pytest

from tests.support.http_client import (
    get,
    parse_response,
    read_bytes,
    speech,
)
from tests.support.service import API_KEY, Service, free_port, running_service

MB = 1_000_000
KEEP_ALIVE_S = 1
OFTEN_CHECKED = ("tests.support.fault_injection", "connections")
FILE = "audio500 " * 20
FILE_BYTES = 500 * 20 * 960 * 2


@pytest.fixture(scope="module")
def probe_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, probe_port: int) -> Iterator[Service]:
    with running_service(
        tmp_path_factory.mktemp("strangers"),
        PORT_HEALTH=probe_port,
        KEEP_ALIVE_SECONDS=KEEP_ALIVE_S,
    ) as service:
        yield service


def grown_mb(service: Service, before: int) -> float:
    return (service.master.memory_info().rss - before) / MB


@contextmanager
def stranger(service: Service, address: str = "127.0.0.1") -> Iterator[httpx.Client]:
    """A client without the key, at an address of its own."""
    transport = httpx.HTTPTransport(local_address=address)
    with httpx.Client(base_url=service.url, transport=transport) as client:
        yield client


@contextmanager
def unread(service: Service, request: bytes) -> Iterator[socket.socket]:
    """Send the request by small packets, as over a network: the kernel then buffers little."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
        connection.connect(("127.0.0.1", service.port))
        connection.sendall(request)
        yield connection


def exchange(service: Service, request: bytes) -> bytes:
    """Send the request, and read until the connection ends."""
    with service.connect() as connection:
        received = bytearray()
        with suppress(ConnectionError):
            connection.sendall(request)
        with suppress(ConnectionError):
            while data := connection.recv(65_536):
                received += data
    return bytes(received)


# --- without the key ------------------------------------------------------------------------------


@pytest.mark.fault(64)
def test_pipelined_requests_take_no_memory(service: Service) -> None:
    requests = b"GET /health HTTP/1.1\r\nHost:\r\n\r\n" * 10_000
    exchange(service, requests)
    before = service.master.memory_info().rss
    for _ in range(10):
        responses = exchange(service, requests)
        assert 1 <= responses.count(b"HTTP/1.1 200 ") <= 10
    assert grown_mb(service, before) < 5


@pytest.mark.fault(64)
def test_job_is_cancelled_if_its_client_leaves_after_pipelining(service: Service) -> None:
    with service.connect() as connection:
        connection.sendall(speech("sleep600 audio1") + get("/health"))
        service.wait_until(lambda: service.busy() == 1)
    service.wait_until(service.is_idle)


@pytest.mark.fault(65)
def test_clients_that_read_nothing_take_little_memory(service: Service) -> None:
    request = b"GET /web/swagger-ui-bundle.js HTTP/1.1\r\nHost:\r\n\r\n"
    before = service.master.memory_info().rss
    with ExitStack() as open_connections:
        for _ in range(100):
            open_connections.enter_context(unread(service, request))
        with service.client() as other:
            assert other.get("/voices").status_code == 200
        assert grown_mb(service, before) < 20  # of 150 MB of responses


@pytest.mark.fault(66)
def test_endless_trailer_is_cut_off(service: Service) -> None:
    begin = b"POST / HTTP/1.1\r\nHost:\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: "
    before = service.master.memory_info().rss
    began = monotonic()
    for _ in range(4):
        exchange(service, begin + b"a" * 16 * MB)
    assert monotonic() - began < 5
    assert grown_mb(service, before) < 5
    assert "connection from 127.0.0.1 closed: URL and headers have at most " in service.log()


@pytest.mark.fault(69)
def test_guesses_of_the_key_are_logged_counted_and_slowed_down(service: Service) -> None:
    address = "127.0.0.9"
    with stranger(service, address) as client, service.client() as owner:

        def refused() -> float:
            name = "tts_unauthenticated_requests_total"
            return float(re.findall(rf"^{name} (\S+)", owner.get("/metrics").text, re.M)[0])

        def guess(key: str, path: str = "/metrics") -> httpx.Response:
            return client.get(path, headers={"X-API-Key": key})

        before = refused()
        answers = [guess(f"guess-{number}") for number in range(14)]
        assert [answer.status_code for answer in answers] == [401] * 10 + [429] * 4
        assert answers[-1].json()["error"]["code"] == "too_many_wrong_keys"
        assert answers[-1].headers["Retry-After"] == "60"
        assert answers[-1].headers["Connection"] == "close"
        assert refused() == before + 14
        assert guess("another", "/tts/generate?text=a").status_code == 429
        assert guess("guess-0").status_code == 401  # a mistake that is repeated
        assert guess(API_KEY).status_code == 200
        with stranger(service, "127.0.0.10") as neighbour:
            assert neighbour.get("/voices", headers={"X-API-Key": "x"}).status_code == 401
    lines = [line for line in service.log().splitlines() if line.endswith(f"from {address}")]
    assert sum(" GET /metrics 401 " in line for line in lines) == 11
    assert sum(" GET /metrics 429 " in line for line in lines) == 4


@pytest.mark.fault(70)
def test_answers_that_needed_the_key_are_not_stored(service: Service) -> None:
    with service.client() as client:
        for path in (
            *("/voices", "/system-status", "/openapi.json", "/metrics", "/v1/models"),
            *("/nowhere", "/tts/generate?text=audio1", "/health", "/ready"),
        ):
            assert client.get(path).headers["Cache-Control"] == "no-store", path
    with stranger(service) as client:
        assert client.get("/voices").headers["Cache-Control"] == "no-store"


@pytest.mark.fault(71)
def test_idle_connection_is_kept_as_long_as_is_set(service: Service) -> None:
    with service.connect() as connection:
        connection.sendall(b"GET /ping HTTP/1.1\r\nHost:\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
        began = monotonic()
        assert connection.recv(1000) == b""
        assert KEEP_ALIVE_S - 0.1 < monotonic() - began < KEEP_ALIVE_S + 2


@pytest.mark.fault(74)
def test_probe_port_redirects_to_no_host_that_a_client_names(
    service: Service, probe_port: int
) -> None:
    url = f"http://127.0.0.1:{probe_port}/health/"
    answer = httpx.get(url, headers={"Host": "evil.example"})
    assert answer.status_code == 404
    assert "evil.example" not in f"{answer.headers} {answer.text}"


@pytest.mark.fault(75)
@pytest.mark.covers("log injection")
def test_log_line_is_short_and_has_no_control_characters(service: Service) -> None:
    begins = len(service.log())
    exchange(service, b"GET /%1b]0;owned%07%c2%85%e2%80%a8" + b"x" * 60_000 + b" HTTP/1.0\r\n\r\n")
    exchange(service, b"nonsense\r\n\r\n")
    service.wait_until(lambda: service.log()[begins:].count("\n") == 2)
    refused, closed = service.log()[begins:].splitlines()
    assert r"/\x1b]0;owned\x07\x85\u2028xxx" in refused
    assert len(refused) < 400
    assert " connection from 127.0.0.1 closed: This is no valid HTTP request" in closed


# --- with the key ---------------------------------------------------------------------------------


@pytest.mark.fault(72)
@pytest.mark.parametrize("path", ["/tts/generate?text=audio30&format=raw_pcm", "/voices"])
def test_http_1_0_client_gets_no_chunks(service: Service, path: str) -> None:
    request = f"GET {path} HTTP/1.0\r\nX-API-Key: {API_KEY}\r\n\r\n".encode()
    head, _, body = exchange(service, request).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"transfer-encoding" not in head.lower()
    with service.client() as client:
        assert len(body) == len(client.get(path).content)


@pytest.mark.fault(73)
def test_get_with_an_endless_body_is_cut_off(service: Service) -> None:
    """It is read while the response is awaited."""
    request = get("/tts/generate?text=sleep5%20audio1")[:-2]
    began = monotonic()
    received = exchange(service, request + b"Content-Length: 1000000000\r\n\r\n" + b"x" * 8 * MB)
    assert monotonic() - began < 3
    assert not received or parse_response(received).status == 413
    service.wait_until(lambda: service.busy() == 0, 2)


@pytest.mark.fault(76)
def test_many_names_and_a_long_accept_header_cost_little(service: Service) -> None:
    with service.client() as client:
        answer = client.post("/tts/generate", json={f"name{i}": 1 for i in range(10_000)})
        assert (answer.status_code, "100 names" in answer.text) == (400, True)
        accept = {"Accept": ";" * 20_000 + "," * 20_000}
        assert client.head("/tts/generate?text=a", headers=accept).status_code == 200


@pytest.mark.fault(67)
def test_file_is_logged_when_it_has_been_sent_and_shutdown_waits_for_it(
    start: Callable[..., Service],
) -> None:
    service = start(MAX_TEXT_LENGTH=1000)
    with unread(service, speech(FILE, "the-file", stream="false")) as connection:
        service.wait_until(lambda: " master: job the-file#1 done" in service.log())
        service.process.send_signal(signal.SIGTERM)
        sleep(0.5)
        assert service.process.poll() is None
        assert " the-file GET " not in service.log()
        received = read_bytes(connection)
    assert len(parse_response(received).body) == FILE_BYTES
    assert service.process.wait(5) == 0
    [line] = [line for line in service.log().splitlines() if " the-file GET " in line]
    assert " 200 audio/pcm;" in line


@pytest.mark.fault(67)
def test_file_that_is_not_read_is_closed_and_logged_as_aborted(
    start: Callable[..., Service],
) -> None:
    service = start(entry=OFTEN_CHECKED, CLIENT_STALL_SECONDS=1)
    with unread(service, speech(FILE, "the-file", stream="false")):
        service.wait_until(lambda: " the-file GET /tts/generate 200 aborted " in service.log())
    assert not service.connections()


@pytest.mark.fault(77)
def test_unread_answers_delay_shutdown_no_longer_than_the_grace_time(
    start: Callable[..., Service],
) -> None:
    service = start(SHUTDOWN_GRACE_SECONDS=0)
    with ExitStack() as open_connections:
        for text, stream in (("audio1400", "true"), (FILE, "false")):
            open_connections.enter_context(unread(service, speech(text, stream=stream)))
        service.wait_until(lambda: service.log().count(" done: ") == 2)
        began = monotonic()
        assert service.stop() == 0
        assert monotonic() - began < 7
    assert "Traceback" not in service.log()
