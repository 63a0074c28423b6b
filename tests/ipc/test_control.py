"""The control socket between this process and real child processes."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest

from app.core.engine_config import EngineConfig, QueueSizes
from app.ipc.control import ControlSocket
from app.ipc.messages import JobStarted, Report, VoicePrepared, WorkerConfig

CONFIG = WorkerConfig(
    "cpu.0", 1, "preview", EngineConfig("cpu", 1, ""), QueueSizes(2, 3), "/channels", "/voices", ""
)


class Child:
    """A process whose standard input is the control socket; `reports`: all it has sent."""

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self.control = ControlSocket(self.reports.append)

    def start(self, program: str) -> subprocess.Popen[str]:
        head = (
            "import os\nfrom app.ipc.control import ReportSender\nfrom app.ipc.messages import *\n"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", f"{head}sender = ReportSender(0)\n{program}"],
            stdin=self.control.remote,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.control.remote.close()
        return self.process

    def close(self) -> None:
        self.control.close()
        with self.process:
            self.process.kill()


@pytest.fixture
async def child() -> AsyncIterator[Child]:
    child = Child()
    yield child
    child.close()


async def test_report_arrives_though_the_process_is_killed_right_after_it(child: Child) -> None:
    process = child.start("sender.send(JobStarted('j'))\nos.kill(os.getpid(), 9)")
    assert await asyncio.to_thread(process.wait) == -signal.SIGKILL
    child.control.receive()
    assert child.reports == [JobStarted("j")]


async def test_reports_arrive_in_order_while_the_process_runs(child: Child) -> None:
    process = child.start(
        "for n in range(1000): sender.send(VoicePrepared(str(n)))\nsender.wait_closed()"
    )
    async with asyncio.timeout(20):
        while len(child.reports) < 1000:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert child.reports == [VoicePrepared(str(n)) for n in range(1000)]
    child.control.close()
    assert await asyncio.to_thread(process.wait) == 0


async def test_config_sent_before_the_start_is_read(child: Child) -> None:
    child.control.configure(CONFIG)
    process = child.start("print(sender.read_config())")
    output, _ = await asyncio.to_thread(process.communicate)
    assert output.strip() == str(CONFIG)


async def test_closing_ends_the_wait_even_if_a_report_was_not_read(child: Child) -> None:
    process = child.start(
        "sender.send(JobStarted('j'))\nprint('sent', flush=True)\nsender.wait_closed()"
    )
    assert process.stdout
    process.stdout.readline()
    child.control.close()
    assert process.wait(20) == 0


async def test_drops_reports_that_do_not_decode(
    child: Child, caplog: pytest.LogCaptureFixture
) -> None:
    process = child.start("os.write(0, b'junk')\nsender.send(JobStarted('j'))")
    await asyncio.to_thread(process.wait)
    child.control.receive()
    assert child.reports == [JobStarted("j")]
    assert "does not decode" in caplog.text
