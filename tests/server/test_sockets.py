"""Listening sockets when descriptors run out."""

import errno
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from app.core.errors import StartupError
from app.server.sockets import RESERVED_SHARE, listen, url_of
from tests.support.service import ROOT


@contextmanager
def no_descriptor_left(reserved_share: float = 0) -> Iterator[None]:
    """Lower the limit to the descriptors in use, which leaves `reserved_share` of it free."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(lowest_free / (1 - reserved_share)), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_exhaustion_is_logged_once_and_reported_every_other_call(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with (
        listen("127.0.0.1", 0, "PORT") as listener,
        socket.create_connection(listener.getsockname()),
    ):
        with no_descriptor_left():
            for _ in range(3):
                with pytest.raises(OSError, match="Too many open files") as failure:
                    listener.accept()
                assert failure.value.errno == errno.EMFILE
                with pytest.raises(BlockingIOError):
                    listener.accept()
        accepted, _ = listener.accept()
        accepted.close()
    assert caplog.messages == ["connections must wait: Too many open files"]


def test_reserve_is_kept_from_connections(caplog: pytest.LogCaptureFixture) -> None:
    with listen("127.0.0.1", 0, "PORT") as listener:
        listener.setblocking(False)
        with no_descriptor_left(1 / RESERVED_SHARE):
            with pytest.raises(BlockingIOError):  # no connection waits
                listener.accept()
            waiting = socket.create_connection(listener.getsockname())
            with pytest.raises(OSError, match="Too many open files"):
                listener.accept()
            with pytest.raises(BlockingIOError):  # reported once
                listener.accept()
            os.close(os.dup(0))  # the service itself may use the reserve
        accepted, _ = listener.accept()
        accepted.close()
        waiting.close()
    assert caplog.messages == ["connections must wait: Too many open files"]


@pytest.mark.parametrize("most", [4096, 1_048_576])
def test_soft_limit_is_raised(most: int) -> None:
    """Runs in a child process: a hard limit that was lowered cannot be raised again."""
    code = f"""
import resource
from app.server.sockets import allow_many_descriptors

_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
hard = min(hard, {most}) if hard != resource.RLIM_INFINITY else {most}
resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
allow_many_descriptors()
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (min(hard, 65536), hard)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_url_of_all_addresses_is_localhost() -> None:
    for host, url in {
        "0.0.0.0": "http://localhost:8000/",  # noqa: S104
        "::": "http://localhost:8000/",
        "127.0.0.1": "http://127.0.0.1:8000/",
        "::1": "http://[::1]:8000/",
    }.items():
        assert url_of(host, 8000) == url


def test_unusable_address_is_reported_with_its_setting() -> None:
    with pytest.raises(StartupError, match=r"; set another HOST$"):
        listen("192.0.2.1", 8000, "PORT")
    with (
        listen("127.0.0.1", 0, "PORT") as taken,
        pytest.raises(StartupError, match=r"Address already in use; set another PORT_HEALTH$"),
    ):
        listen(*taken.getsockname(), "PORT_HEALTH")


UNUSABLE_HOSTS = {
    "2001:db8::1": ", such as 0.0.0.0 for IPv4",  # of another machine
    "fe80::1": ", such as 0.0.0.0 for IPv4",  # without an interface
    "[::]": ", such as 0.0.0.0 for IPv4",
    "192.0.2.1/24": "",
    "no such host": "",
    "a..b": "",
    "ü" * 70: "",  # no label of a name is so long
}


@pytest.mark.parametrize("host", UNUSABLE_HOSTS)
def test_unusable_host_is_reported_in_a_line(host: str) -> None:
    with pytest.raises(StartupError) as refusal:
        listen(host, 8000, "PORT_HEALTH")
    message = str(refusal.value)
    assert message.startswith(f"cannot listen on {host}:8000: ")
    assert message.endswith(f"; set another HOST{UNUSABLE_HOSTS[host]}")
    assert "\n" not in message


@pytest.mark.parametrize("host", ["::", "::1"])
def test_machine_without_ipv6_is_reported_in_a_line(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ipv4Only(socket.socket):
        def __init__(self, family: int, *rest: int) -> None:
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
            super().__init__(family, *rest)

    monkeypatch.setattr("app.server.sockets.Listener", Ipv4Only)
    with pytest.raises(StartupError) as refusal:
        listen(host, 8000, "PORT")
    assert str(refusal.value) == (
        f"cannot listen on {host}:8000: Address family not supported by protocol; set another "
        "HOST, such as 0.0.0.0 for IPv4"
    )


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 on this machine")
def test_all_addresses_of_ipv6_include_those_of_ipv4() -> None:
    with listen("::", 0, "PORT") as listener:
        for address in ("::1", "127.0.0.1"):
            socket.create_connection((address, listener.getsockname()[1])).close()


def test_nothing_is_logged_without_a_waiting_connection(caplog: pytest.LogCaptureFixture) -> None:
    with listen("127.0.0.1", 0, "PORT") as listener:
        listener.setblocking(False)
        for _ in range(3):
            with pytest.raises(BlockingIOError):
                listener.accept()
    assert caplog.messages == []
