"""Checks for leaks after a soak; each yields one line for every fault."""

import asyncio
import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from app.core.process_env import cpu_count
from tests.soak.voices import VoiceHistory
from tests.support.service import Service

POLL_S = 0.5
MAX_POLLS = 20
STOP_S = 15.0
MAX_MEMORY_GROWTH_MB = 10.0
MAX_DESCRIPTOR_CHANGE = 2
MAX_THREAD_GROWTH = min(32, (os.cpu_count() or 1) + 4) + cpu_count()
"""The sizes of asyncio's default pool and of the encoders' pool, which fill at random."""


@dataclass(frozen=True)
class Footprint:
    """Resources of the idle master; `sockets` are those in its temporary folder."""

    memory_mb: float
    descriptors: int
    threads: int
    sockets: int

    @classmethod
    def of(cls, service: Service, temp_dir: Path) -> "Footprint":
        master = service.master
        sockets = sum(path.is_socket() for path in temp_dir.glob("*/*"))
        memory_mb = master.memory_info().rss / 1e6
        return cls(memory_mb, master.num_fds(), master.num_threads(), sockets)

    @property
    def counts(self) -> tuple[int, int, int]:
        return self.descriptors, self.threads, self.sockets


async def stable_footprint(service: Service, temp_dir: Path) -> Footprint:
    """Wait until the counts stay the same between two polls."""
    last = Footprint.of(service, temp_dir)
    for _ in range(MAX_POLLS):
        await asyncio.sleep(POLL_S)
        before, last = last, Footprint.of(service, temp_dir)
        if before.counts == last.counts:
            break
    return last


def growth(before: Footprint, after: Footprint) -> Iterator[str]:
    if after.memory_mb > before.memory_mb + MAX_MEMORY_GROWTH_MB:
        yield f"memory has grown by {after.memory_mb - before.memory_mb:.1f} MB"
    if abs(after.descriptors - before.descriptors) > MAX_DESCRIPTOR_CHANGE:
        yield f"{before.descriptors} descriptors have become {after.descriptors}"
    if after.threads > before.threads + MAX_THREAD_GROWTH:
        yield f"{before.threads} threads have become {after.threads}"
    if after.sockets != before.sockets:
        yield f"{before.sockets} sockets in the temporary folder have become {after.sockets}"


def leftovers(
    service: Service,
    temp_dir: Path,
    voices: Collection[VoiceHistory],
    processes: Collection[psutil.Process],
) -> list[str]:
    """Check processes and voice files; `processes` are all that have ever been children."""
    found = []
    workers = set(service.worker_pids())
    alive = {process.pid for process in {*service.children(), *processes} if process.is_running()}
    if alive != workers:
        found.append(f"the workers are {sorted(workers)}, the processes {sorted(alive)}")
    uploaded = {voice.id for voice in voices if voice.current is not None}
    stored = {path.name for path in service.voices_dir.iterdir()}
    with service.client() as client:
        listed = set(client.get("/voices").json())
    if not uploaded == listed == stored:
        found.append(f"voices: {uploaded} were uploaded, {listed} listed, {stored} stored")
    decoded = [path.name for path in temp_dir.glob("*/voices/*")]
    if len(decoded) != len(uploaded):
        found.append(f"{len(decoded)} decoded voices for {len(uploaded)}: {decoded}")
    return found


def check_exit(service: Service, temp_dir: Path) -> list[str]:
    """Send SIGTERM: the service exits with code 0 and leaves no process and no file."""
    processes = service.children()
    try:
        code: int | None = service.stop(timeout_s=STOP_S)
    except AssertionError:
        code = None
    found = [] if code == 0 else [f"exit code {code} after SIGTERM"]
    if unanswered := re.search(r"\d+ requests are still being answered", service.log()):
        found.append(f"{unanswered[0]}, though all clients have left")
    if remaining := [process for process in processes if process.is_running()]:
        found.append(f"processes are left: {remaining}")
    if files := sorted(path.name for path in temp_dir.iterdir()):
        found.append(f"temporary files are left: {files}")
    return found
