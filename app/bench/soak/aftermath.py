"""After the crowd: has anything grown, is anything left over, does the service leave?

Called by `bench.soak.soak`, in this order. Each check gives one line for whatever is wrong.
"""

import asyncio
import os
import re
from collections.abc import Collection, Iterator

import psutil

from app.bench.service import Footprint, Service
from app.bench.soak.voices import VoiceHistory
from app.core.process_env import cpu_count

LOOK_AGAIN_S = 0.5
MOST_LOOKS = 20
MORE_MEMORY_MB = 10.0
MORE_DESCRIPTORS = 2
MORE_THREADS = min(32, (os.cpu_count() or 1) + 4) + cpu_count()
"""Those of asyncio's own pool and of the encoders', which are filled as chance will have it."""


async def level_footprint(service: Service) -> Footprint:
    """What the idle service takes up, once that stands still."""
    last = service.footprint()
    for _ in range(MOST_LOOKS):
        await asyncio.sleep(LOOK_AGAIN_S)
        before, last = last, service.footprint()
        if before.countable == last.countable:
            break
    return last


def growth(before: Footprint, after: Footprint) -> Iterator[str]:
    if after.memory_mb > before.memory_mb + MORE_MEMORY_MB:
        yield f"memory has grown by {after.memory_mb - before.memory_mb:.1f} MB"
    if abs(after.descriptors - before.descriptors) > MORE_DESCRIPTORS:
        yield f"{before.descriptors} descriptors have become {after.descriptors}"
    if after.threads > before.threads + MORE_THREADS:
        yield f"{before.threads} threads have become {after.threads}"
    if after.sockets != before.sockets:
        yield f"{before.sockets} sockets in the temporary folder have become {after.sockets}"


async def leftovers(
    service: Service, voices: Collection[VoiceHistory], processes: Collection[psutil.Process]
) -> list[str]:
    """`processes`: all that were ever seen."""
    found = []
    workers = {worker["pid"] for worker in (await service.status())["workers"]}
    alive = {process.pid for process in {*service.children(), *processes} if process.is_running()}
    if alive != workers:
        found.append(f"the workers are {sorted(workers)}, the processes {sorted(alive)}")
    wanted = {voice.id for voice in voices if voice.now is not None}
    listed, stored = await service.voices(), {path.name for path in service.voices_dir.iterdir()}
    if not wanted == listed == stored:
        found.append(f"voices: {wanted} were uploaded, {listed} listed, {stored} stored")
    decoded = [path.name for path in service.temp_dir.glob("*/voices/*")]
    if len(decoded) != len(wanted):
        found.append(f"{len(decoded)} decoded voices for {len(wanted)}: {decoded}")
    return found


async def departure(service: Service) -> list[str]:
    """SIGTERM: it leaves, with exit code 0 and all that belongs to it."""
    processes = service.children()
    code = await service.stop()
    found = [] if code == 0 else [f"exit code {code} after SIGTERM"]
    if unanswered := re.search(r"\d+ requests are still being answered", service.log()):
        found.append(f"{unanswered[0]}, though nobody asks any more")
    if remaining := [process for process in processes if process.is_running()]:
        found.append(f"processes are left: {remaining}")
    if forgotten := sorted(path.name for path in service.temp_dir.iterdir()):
        found.append(f"temporary files are left: {forgotten}")
    return found
