"""Starts one worker process, dumps its stacks, kills it. The managed worker decides when."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from app.core.devices import Device
from app.core.process_env import child_environment, python_path, worker_thread_env
from app.ipc.control import ControlSocket
from app.ipc.messages import Report, WorkerConfig

STACK_DUMP_S = 1.0
KILL_TIMEOUT_S = 5.0
"""How long to wait for the end of a killed process; a system call that hangs may delay it."""

PACKAGE_PARENT = Path(__file__).parents[3]


class WorkerProcess:
    """Runs `python -m app.worker` in a session of its own, so that Ctrl-C does not reach it."""

    def __init__(self, process: Process, control: ControlSocket) -> None:
        self._process = process
        self._control = control
        self._given_up = False
        self.pid = process.pid

    @classmethod
    async def start(
        cls, config: WorkerConfig, device: Device, on_report: Callable[[Report], None]
    ) -> "WorkerProcess":
        """Raises OSError if a process cannot be started."""
        control = ControlSocket(on_report)
        control.configure(config)
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # do not import modules from the working directory
                "-m",
                "app.worker",
                stdin=control.remote.fileno(),
                start_new_session=True,
                env=child_environment(
                    **device.environment(),
                    CUDA_DEVICE_ORDER="PCI_BUS_ID",
                    **worker_thread_env(device.kind, config.engine_config.threads),
                    PYTHONPATH=python_path(PACKAGE_PARENT),
                ),
            )
        except BaseException as error:
            control.close()
            if isinstance(error, RuntimeError | MemoryError):  # asyncio needs a thread for it
                raise OSError(str(error)) from error
            raise
        control.remote.close()
        return cls(process, control)

    async def wait_exit(self) -> str:
        code = await self._process.wait()
        if code < 0:
            return f"was killed by signal {-code} ({signal.strsignal(-code) or 'no name'})"
        return f"exited with code {code}"

    def drain_reports(self) -> None:
        """Hand over the last reports of a process that has exited."""
        self._control.receive()

    async def dump_stacks(self) -> None:
        """Have it log the stacks of its threads if it still can."""
        self.send_signal(signal.SIGUSR1)
        await asyncio.sleep(STACK_DUMP_S)  # nothing reports the end of the dump

    async def kill(self) -> bool:
        """Kill it and its children; False if it does not end within `KILL_TIMEOUT_S`.

        Such a process is reaped whenever it ends.
        """
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)  # its children outlive it otherwise
        if not self._given_up:
            try:
                await asyncio.wait_for(self._process.wait(), KILL_TIMEOUT_S)
            except TimeoutError:
                self._given_up = True
        return not self._given_up

    async def close(self) -> None:
        """Kill it if it still runs."""
        await self.kill()
        self._control.close()

    def send_signal(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            self._process.send_signal(number)
