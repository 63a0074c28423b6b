"""A log that nobody reads."""

import os
import socket
from pathlib import Path
from time import monotonic

import pytest

from tests.support.service import Service

REFUSED = b"GET /%s HTTP/1.1\r\nHost: tts\r\n\r\n"
REQUESTS = 800
"""More lines than a pipe takes."""


def refuse(connection: socket.socket, path: bytes) -> None:
    connection.sendall(REFUSED % path)
    answer = b""
    while b"invalid_api_key" not in answer:
        received = connection.recv(65_536)
        assert received
        answer += received


@pytest.mark.fault(78)
def test_a_log_that_nobody_reads_delays_no_request_and_no_shutdown(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    service = Service(tmp_path, {}, log=writing)
    os.close(writing)
    try:
        service.wait_ready()
        with service.connect() as connection, service.client() as client:
            for number in range(REQUESTS):
                refuse(connection, b"%d" % number)
            began = monotonic()
            assert client.get("/health").status_code == 200
            assert monotonic() - began < 0.5
            assert "tts_log_lines_dropped_total 0.0" in client.get("/metrics").text
        assert service.stop() == 0
    finally:
        if service.process.poll() is None:
            service.stop()
        os.close(reading)
