"""The listening socket when descriptors run out."""

import errno
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from app.api.listener import listen


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_failure_is_told_once_and_not_repeated_at_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
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


def test_when_nobody_waits_nothing_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with listen("127.0.0.1", 0) as listener:
        listener.setblocking(False)
        for _ in range(3):
            with pytest.raises(BlockingIOError):
                listener.accept()
    assert caplog.messages == []
