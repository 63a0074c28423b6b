import asyncio
import os
import signal
import sys

import psutil
import pytest

from app.bench.child_process import child_process
from app.core.errors import EngineFailed, StartupError
from tests.support.service import ROOT
from tests.support.waiting import until


def die() -> None:
    os._exit(1)


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def refuse() -> None:
    raise StartupError("there is no model")


def test_has_its_own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", "secret")
    monkeypatch.setenv("MKL_CBWR", "none")
    with child_process(MKL_CBWR="AUTO") as run:
        assert run(os.getpid) != os.getpid()
        assert run(os.getenv, "MKL_CBWR") == "AUTO"
        assert run(os.getenv, "API_KEY") is None
    assert os.getenv("API_KEY") == "secret"
    assert os.getenv("MKL_CBWR") == "none"


def test_error_is_raised_and_process_continues() -> None:
    with child_process() as run:
        with pytest.raises(StartupError, match="there is no model"):
            run(refuse)
        assert run(int, "7") == 7


def test_death_of_process_is_an_error() -> None:
    with child_process() as run, pytest.raises(EngineFailed, match=r"test_child_process\.die"):
        run(die)


async def test_process_ends_when_parent_is_killed() -> None:
    command = """
import os
from app.bench.child_process import child_process

if __name__ == "__main__":
    with child_process() as run:
        print(run(os.getpid), flush=True)
        os.kill(os.getpid(), 9)
"""
    done = await asyncio.create_subprocess_exec(
        sys.executable, "-c", command, stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    assert done.stdout
    pid = int(await done.stdout.readline())
    assert await done.wait() == -signal.SIGKILL
    await until(lambda: is_gone(pid))
