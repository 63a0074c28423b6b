"""The crowd: clients of all kinds at a steady rate, and a killer among them.

Called by `soak`. What the clients find goes into the report; what the log is to confirm when
all is over, request ids with their outcomes and the number of kills, stays here.
"""

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

from app.bench.service import Service, Violation
from app.bench.soak.clients import KINDS, Call, Client, Kind, hears_a_word
from app.bench.soak.journal import has_finished_a_job
from app.bench.soak.report import Report
from app.bench.soak.voices import VoiceHistory

TURNS_PER_S = 22
"""Of clients; at some turns many come at once."""

MOST_AT_ONCE = 200
"""At the limit, the next one comes when another has gone."""

PATIENCE_S = 30.0
"""Whatever befalls its worker, a request is over by then."""

FIRST_KILL_S = 2.0
KILL_EVERY_S = 7.0
LOOK_AGAIN_S = 0.1
VOICES = 6
LAST_VISITORS = 10


class Crowd:
    """All clients of one soak, and all that they know. `seed` names the mix."""

    def __init__(self, service: Service, seed: int, report: Report) -> None:
        self.outcomes: dict[str, str] = {}
        self.kills: list[float] = []
        self.processes: set[psutil.Process] = set()
        self.voices = [VoiceHistory(f"voice {number}.wav") for number in range(VOICES)]
        self._service = service
        self._seed = seed
        self._report = report
        self._random = Random(seed)  # noqa: S311 - a mix, no secret
        self._numbers = count(1)
        self._room = asyncio.Semaphore(MOST_AT_ONCE)

    async def come(self, seconds: float, on_progress: Callable[[float], None]) -> None:
        """For so long; returns when the last one has gone."""
        killing = asyncio.create_task(self._kill_workers())
        try:
            async with self._service.clients() as lines, asyncio.TaskGroup() as calls:
                began = monotonic()
                for turn in range(int(seconds * TURNS_PER_S)):
                    await asyncio.sleep(began + turn / TURNS_PER_S - monotonic())
                    on_progress(monotonic() - began)
                    kind = self._whose_turn()
                    for _ in range(kind.at_once):
                        await self._room.acquire()
                        calls.create_task(self._visit(kind.client, lines, self._room.release))
        finally:
            killing.cancel()
            with suppress(asyncio.CancelledError):
                await killing

    async def find_it_well(self) -> None:
        """Now that all is calm, every single request is to succeed."""
        async with self._service.clients() as lines:
            for _ in range(LAST_VISITORS):
                outcome = await self._visit(hears_a_word, lines, lambda: None)
                if outcome not in ("whole", "broken"):
                    self._report.violations.append(f"{outcome}, though nobody else is there")

    def _whose_turn(self) -> Kind:
        [kind] = self._random.choices(KINDS, [kind.share for kind in KINDS])
        return kind

    async def _visit(
        self,
        client: Client,
        lines: tuple[httpx.AsyncClient, httpx.AsyncClient],
        on_end: Callable[[], None],
    ) -> str:
        """One call; its outcome, which is `broken` if it was a violation."""
        name = f"{client.__name__}-{next(self._numbers)}".replace("_", "-")
        random = Random(f"{self._seed} {name}")  # noqa: S311 - a mix, no secret
        call = Call(name, random, *lines, self.voices, self.kills)
        try:
            async with asyncio.timeout(PATIENCE_S):
                outcome = await client(call)
        except (Violation, TimeoutError) as fault:
            outcome = "broken"
            reason = str(fault) or f"not over after {PATIENCE_S:g} s"
            self._report.violations.append(f"{name}: {reason}")
        finally:
            on_end()
        self._report.outcomes[outcome] += 1
        self.outcomes[name] = outcome
        if client is hears_a_word and outcome == "whole":
            self._report.latencies_s.append(call.took_s)
        return outcome

    async def _kill_workers(self) -> None:
        """Those that have finished a job, so that no circuit opens; the busiest first."""
        await asyncio.sleep(FIRST_KILL_S)
        while True:
            if victims := await self._victims():
                self.processes.update(self._service.children())
                self.kills.append(monotonic())
                with suppress(ProcessLookupError):  # then one death too few will be found
                    os.kill(victims[0], signal.SIGKILL)
            await asyncio.sleep(KILL_EVERY_S if victims else LOOK_AGAIN_S)

    async def _victims(self) -> list[int]:
        workers, log = (await self._service.status())["workers"], self._service.log()
        workers.sort(key=lambda worker: -worker["busy"])
        return [
            worker["pid"]
            for worker in workers
            if worker["state"] == "ready" and has_finished_a_job(log, worker["id"])
        ]
