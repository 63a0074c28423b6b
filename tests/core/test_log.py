import os
import subprocess
import sys
from time import monotonic

import pytest

FORGERY = "voice\r\n2031-01-01 INFO master: all is well"


def logged(code: str, level: str = "INFO") -> list[str]:
    """What a process that logs says on standard error, line by line."""
    program = f"""
import logging
from app.core.log import set_up_logging
set_up_logging({level!r}, "gpu0.1")
log = logging.getLogger("app.somewhere")
{code}
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stdout
    return done.stderr.splitlines()


def test_log_line_has_time_level_and_process() -> None:
    [line] = logged("log.warning('job %s done', 'j1')")
    assert line[:4].isdigit()
    assert line.endswith("WARNING gpu0.1: job j1 done")


@pytest.mark.covers("log injection")
def test_a_client_cannot_forge_a_line() -> None:
    lines = logged(f"log.info('no %s', {FORGERY!r})")
    assert len(lines) == 1
    assert lines[0].endswith(r"no voice\r\n2031-01-01 INFO master: all is well")


def test_a_traceback_keeps_its_lines() -> None:
    lines = logged("try: 1 / 0\nexcept ZeroDivisionError: log.exception('it broke')")
    assert lines[0].endswith("it broke")
    assert lines[-1].startswith("ZeroDivisionError")


def test_messages_below_the_level_are_dropped() -> None:
    assert logged("log.info('chatter')", "WARNING") == []


def test_libraries_that_log_every_request_are_kept_quiet() -> None:
    assert logged("logging.getLogger('httpx').info('GET /?api_key=secret')", "DEBUG") == []


def test_controls_of_a_terminal_are_escaped() -> None:
    sent = "\x1b]0;owned\x07 \x9b31m \u2028 \x00"
    lines = logged(
        f"log.info('%s', {sent!r})\n"
        f"try: raise ValueError({sent!r})\nexcept ValueError: log.exception('it broke')"
    )
    escaped = r"\x1b]0;owned\x07 \x9b31m \u2028 \x00"
    assert lines[0].endswith(escaped)
    assert lines[-1] == f"ValueError: {escaped}"


def test_a_log_that_nobody_reads_delays_nothing() -> None:
    program = """
import logging
from app.core.log import dropped_lines, set_up_logging
set_up_logging("INFO", "master")
for number in range(30_000):
    logging.info("%d %s", number, "x" * 90)
print(dropped_lines(), flush=True)
input()
"""
    reading, writing = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=writing,
        text=True,
    ) as process:
        os.close(writing)
        assert process.stdout
        assert process.stdin
        dropped = int(process.stdout.readline())
        assert 10_000 < dropped < 25_000  # a pipe takes 64 KB, and 1 MB waits
        with os.fdopen(reading) as log:
            process.stdin.write("\n")
            process.stdin.close()
            lines = log.read().splitlines()
    assert process.returncode == 0
    assert len(lines) == 30_000 - dropped + 1
    assert lines[-1].endswith(f"{dropped} lines of the log were dropped: nobody read it")


@pytest.mark.parametrize("ending", ["the reader has exited", "the disk is full"])
def test_a_log_that_cannot_be_written_delays_nothing(ending: str) -> None:
    program = """
import logging
from app.core.log import dropped_lines, set_up_logging
set_up_logging("INFO", "master")
for number in range(30_000):
    logging.info("%d %s", number, "x" * 90)
logging.shutdown()
print(dropped_lines())
"""
    reading, writing = os.pipe()
    os.close(reading)
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", program],
            stdout=subprocess.PIPE,
            stderr=full if "disk" in ending else writing,
            check=True,
            timeout=10,
        )
    os.close(writing)
    assert int(done.stdout) >= 30_000  # and the lines that report it


def test_a_log_that_nobody_reads_delays_the_exit_by_a_second() -> None:
    reading, writing = os.pipe()
    program = """
import logging
from app.core.log import set_up_logging
set_up_logging("INFO", "master")
logging.info("%s", "x" * 100_000)
"""
    started_at = monotonic()
    try:
        subprocess.run([sys.executable, "-c", program], stderr=writing, check=True, timeout=10)
    finally:
        os.close(reading)
        os.close(writing)
    assert 1 < monotonic() - started_at < 5
