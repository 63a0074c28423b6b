"""One worker process: start it, make it show its stack, stop it. When to, the supervisor knows."""

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path

import msgspec

from app.core.devices import Device
from app.core.process_env import child_environment, python_path, worker_thread_env
from app.ipc.messages import WorkerConfig

STACK_DUMP_S = 1.0
PACKAGE_PARENT = Path(__file__).parents[3]


class WorkerProcess:
    """Runs `python -m app.worker`, in a session of its own so that Ctrl-C is the master's alone."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.pid = process.pid

    @classmethod
    async def start(cls, config: WorkerConfig, device: Device) -> "WorkerProcess":
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # nothing in the working folder is taken for a module
            "-m",
            "app.worker",
            stdin=PIPE,
            start_new_session=True,
            env=child_environment(
                **device.environment(),
                CUDA_DEVICE_ORDER="PCI_BUS_ID",
                **worker_thread_env(device.kind, config.engine_config.threads),
                PYTHONPATH=python_path(PACKAGE_PARENT),
            ),
        )
        lifeline = process.stdin
        if lifeline is None:
            raise RuntimeError("a process was started without standard input")
        lifeline.write(msgspec.json.encode(config) + b"\n")
        return cls(process)

    async def exited(self) -> str:
        """Returns when the process is gone: how it ended, in words."""
        code = await self._process.wait()
        if code < 0:
            return f"was killed by signal {-code} ({signal.strsignal(-code) or 'no name'})"
        return f"exited with code {code}"

    async def kill_after_stack_dump(self) -> None:
        """Its threads' stacks into the log (if it still can), then `kill`."""
        self._signal(signal.SIGUSR1)
        await asyncio.sleep(STACK_DUMP_S)  # the dump has no end that could be awaited
        await self.kill()

    async def kill(self) -> None:
        """Returns when it is gone and reaped; of a process long gone, at once."""
        self.end()
        await self._process.wait()

    def end(self) -> None:
        """Kill it; `exited` tells when it is gone."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            self._process.send_signal(number)
