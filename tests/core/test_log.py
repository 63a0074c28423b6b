import subprocess
import sys

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
