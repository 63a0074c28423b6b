"""All clients of a soak, at a steady rate, and a task that kills workers."""

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from random import Random
from time import monotonic

import httpx
import psutil

from tests.soak.checks import Violation, has_finished_a_job
from tests.soak.clients import KINDS, Call, Client, short_text_client
from tests.soak.voices import VoiceHistory
from tests.support.service import Service

TURNS_PER_S = 22
"""In some turns many clients start at once."""

MAX_CLIENTS = 200
"""At this limit the next client waits for another to end."""

CALL_TIMEOUT_S = 30.0
FIRST_KILL_S = 2.0
KILL_EVERY_S = 7.0
POLL_S = 0.1
VOICES = 6
LAST_CLIENTS = 10
KEEP_ALIVE_S = 2.0
"""Shorter than the service's, so that no request is sent on a connection that it is closing."""


class ClientPool:
    """All clients of one soak; `seed` determines their mix.

    `outcomes`: by request id. `latencies_s`: of complete short responses. `processes`: all that
    have been the service's children at a kill.
    """

    def __init__(self, service: Service, seed: int) -> None:
        self.outcomes: dict[str, str] = {}
        self.latencies_s: list[float] = []
        self.violations: list[str] = []
        self.kills: list[float] = []
        self.processes: set[psutil.Process] = set()
        self._voices = [VoiceHistory(f"voice {number}.wav") for number in range(VOICES)]
        self._service = service
        self._seed = seed
        self._random = Random(seed)
        self._numbers = count(1)
        self._room = asyncio.Semaphore(MAX_CLIENTS)

    def uploaded(self) -> set[str]:
        """Return the ids of all voices that exist now."""
        return {voice.id for voice in self._voices if voice.current is not None}

    async def run(self, seconds: float) -> None:
        """Start clients for `seconds`; return when the last one has ended."""
        killing = asyncio.create_task(self._kill_workers())
        try:
            async with self._http_client() as http, asyncio.TaskGroup() as calls:
                began = monotonic()
                for turn in range(int(seconds * TURNS_PER_S)):
                    await asyncio.sleep(began + turn / TURNS_PER_S - monotonic())
                    [kind] = self._random.choices(KINDS, [kind.share for kind in KINDS])
                    for _ in range(kind.at_once):
                        await self._room.acquire()
                        calls.create_task(self._call(kind.client, http, self._room.release))
        finally:
            killing.cancel()
            with suppress(asyncio.CancelledError):
                await killing

    async def check_recovered(self) -> None:
        """Make single requests to the idle service; each must succeed."""
        async with self._http_client() as http:
            for _ in range(LAST_CLIENTS):
                outcome = await self._call(short_text_client, http, lambda: None)
                if outcome not in ("whole", "broken"):
                    self.violations.append(f"{outcome}, though the service is idle")

    def _http_client(self) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=None, keepalive_expiry=KEEP_ALIVE_S)
        return self._service.async_client(limits=limits, timeout=None)

    async def _call(
        self, client: Client, http: httpx.AsyncClient, on_end: Callable[[], None]
    ) -> str:
        """Run one client; its outcome is `broken` after a violation."""
        name = f"{client.__name__}-{next(self._numbers)}".replace("_", "-")
        random = Random(f"{self._seed} {name}")
        call = Call(name, random, self._service, http, self._voices, self.kills)
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                outcome = await client(call)
        except (Violation, TimeoutError) as fault:
            outcome = "broken"
            reason = str(fault) or f"not over after {CALL_TIMEOUT_S:g} s"
            self.violations.append(f"{name}: {reason}")
        finally:
            on_end()
        self.outcomes[name] = outcome
        if client is short_text_client and outcome == "whole":
            self.latencies_s.append(call.took_s)
        return outcome

    async def _kill_workers(self) -> None:
        """Kill workers that have finished a job, so that no circuit opens; the busiest first."""
        await asyncio.sleep(FIRST_KILL_S)
        while True:
            if pids := await asyncio.to_thread(self._candidates):
                self.processes.update(self._service.children())
                self.kills.append(monotonic())
                with suppress(ProcessLookupError):  # the log check then finds one death too few
                    os.kill(pids[0], signal.SIGKILL)
            await asyncio.sleep(KILL_EVERY_S if pids else POLL_S)

    def _candidates(self) -> list[int]:
        workers, log = self._service.workers(), self._service.log()
        workers.sort(key=lambda worker: -worker["busy"])
        return [
            worker["pid"]
            for worker in workers
            if worker["state"] == "ready" and has_finished_a_job(log, worker["id"])
        ]
