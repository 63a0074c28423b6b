"""The checks of a soak: of single responses, of the service's log, and for leaks.

A client's outcome is `whole`, `refused`, `served`, `left`, `busy` (a full queue), `gone` (a deleted
voice), `cut` or `poisoned` (by dying workers), or `broken` after a `Violation`.
"""

import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import psutil

from app.core.cpu import cpu_count
from app.core.errors import PoisonRequest, QueueFull, VoiceNotFound, WorkerLost, from_code
from tests.support.http_client import Response
from tests.support.service import Service


class Violation(Exception):
    """The service broke an invariant or its contract; the message says how."""


# --- responses ------------------------------------------------------------------------------------


def check_speech(
    response: Response, files: Collection[bytes], *, kills: int = 0, voice_may_be_gone: bool = False
) -> str:
    """Check a generation that may be any of `files`; `kills`: workers killed during it."""
    if response.status == 200:
        return _check_audio(response, files, kills)
    outcomes = {QueueFull.code: "busy"}
    if voice_may_be_gone:
        outcomes[VoiceNotFound.code] = "gone"
    if kills >= 2:
        outcomes[PoisonRequest.code] = "poisoned"
    return outcomes[check_error(response, *outcomes)]


def check_error(response: Response, *allowed: str) -> str:
    """Check that the response is one of these errors, in the service's shape; return its code."""
    if not response.complete:
        raise Violation(f"{_describe(response)} was cut off")
    try:
        body = json.loads(response.body)["error"]
        error = from_code(body["code"], body["message"])
        shape = {"message": str(body["message"]), "type": error.type, "code": error.code}
        valid = body == shape | {"param": body["param"]}
    except (ValueError, TypeError, LookupError):
        valid = False
    if not valid or error.status != response.status:
        raise Violation(f"{_describe(response)} is no error in the service's shape")
    if error.retry_after_s is not None and not response.headers.get("retry-after", "").isdecimal():
        raise Violation(f"{_describe(response)} has no Retry-After")
    if error.code not in allowed:
        raise Violation(f"{_describe(response)} in place of {' or '.join(allowed)}")
    return error.code


def check_success(response: Response, status: int) -> str:
    if response.status != status or not response.complete:
        raise Violation(f"{_describe(response)} in place of {status}")
    return "served"


def _check_audio(response: Response, files: Collection[bytes], kills: int) -> str:
    if not any(file.startswith(response.body) for file in files):
        raise Violation(f"{_describe(response)} is not the audio of this text, seed and voice")
    if response.complete:
        if response.body not in files:
            raise Violation(f"{_describe(response)} is only a part, with a clean end")
        return "whole"
    if not kills:
        raise Violation(f"{_describe(response)} was cut off, though no worker was killed")
    return "cut"


def _describe(response: Response) -> str:
    shown = f" {response.body[:200]!r}" if response.status != 200 else ""
    return f"{response.status} with {len(response.body)} bytes{shown}"


# --- the log --------------------------------------------------------------------------------------

JOB_END = re.compile(r" master: job (\S+)#(\d+) (done|failed|cancelled)\b")
FAILURE = re.compile(r" master: job (\S+)#\d+ failed \((\w+): (.*?)\)")
KILLED = "was killed by signal 9 "
DEATH = re.compile(r" ERROR +master: worker \S+: the worker was killed by signal 9 ")
NORMAL_LINE = re.compile(r"\d{4}-\d\d-\d\d \S+ (?:INFO|WARNING) ")
"""The beginning of a log line without a fault; no line of a traceback begins so."""

JOB_ENDS = {"whole": ["done"], "cut": ["failed"], "poisoned": ["failed"]}
"""How the job of a request ends, by the client's outcome; other requests have no job."""

UNDECIDED = ("left", "broken")
"""Outcomes with which the job may have ended in any way."""


def has_finished_a_job(log: str, worker: str) -> bool:
    """Return whether the worker's current process has finished a job."""
    since_start = log[log.rfind(f" worker {worker} started ") :]
    done = rf" master: job \S+ done: .*\bworker={re.escape(worker)}\b"
    return bool(re.search(done, since_start))


def log_violations(log: str, outcomes: Mapping[str, str], kills: int) -> Iterator[str]:
    """Check the log against the clients' `outcomes` by request id and the number of kills.

    Accepted jobs are numbered from 1 on; each must end once.
    """
    ends = JOB_END.findall(log)
    times = Counter(int(number) for _, number, _ in ends)
    for number in range(1, max(times, default=0) + 1):
        if times[number] != 1:
            yield f"accepted job {number} has ended {times[number]} times"
    by_request = defaultdict(list)
    for request, _, end in ends:
        by_request[request].append(end)
    for request, outcome in outcomes.items():
        if outcome not in UNDECIDED and by_request[request] != JOB_ENDS.get(outcome, []):
            yield f"{request} is {outcome} for its client, {by_request[request]} for the service"
    for job, code, reason in FAILURE.findall(log):
        if code != PoisonRequest.code and not (code == WorkerLost.code and KILLED in reason):
            yield f"job {job} failed, but not since its worker was killed: {code}, {reason}"
    faults = [line for line in log.splitlines() if not NORMAL_LINE.match(line)]
    deaths = [line for line in faults if DEATH.search(line)]
    if len(deaths) != kills:
        yield f"{kills} workers were killed, but {len(deaths)} deaths were noticed"
    yield from (f"the log says: {line}" for line in faults if line not in deaths)


# --- leaks ----------------------------------------------------------------------------------------

STOP_S = 15.0
MAX_GROWTH = {
    "MB of memory": 10,
    "descriptors": 2,
    "threads": min(32, (os.cpu_count() or 1) + 4) + cpu_count(),
    "sockets": 0,
}
"""Threads: the sizes of asyncio's default pool and of the encoders' pool, which fill at random."""


class Footprint(NamedTuple):
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


def growth(before: Footprint, after: Footprint) -> Iterator[str]:
    for (name, most), then, now in zip(MAX_GROWTH.items(), before, after, strict=True):
        if now - then > most or (then - now > most and name in ("descriptors", "sockets")):
            yield f"{then:.4g} {name} have become {now:.4g}"


def leftovers(
    service: Service,
    uploaded: set[str],
    processes: Collection[psutil.Process],
) -> Iterator[str]:
    """Check processes and voice files; `processes` are all that have ever been children."""
    workers = set(service.worker_pids())
    alive = {process.pid for process in {*service.children(), *processes} if process.is_running()}
    if alive != workers:
        yield f"the workers are {sorted(workers)}, the processes {sorted(alive)}"
    stored = {path.name for path in service.voices_dir.iterdir()}
    with service.client() as client:
        listed = set(client.get("/voices").json())
    if not uploaded == listed == stored:
        yield f"voices: {uploaded} were uploaded, {listed} listed, {stored} stored"
    decoded = [path.name for path in service.cache_dir.glob("*/voices-*/*") if not path.suffix]
    if len(decoded) != len(uploaded):
        yield f"{len(decoded)} decoded voices for {len(uploaded)}: {decoded}"


def check_exit(service: Service, temp_dir: Path) -> Iterator[str]:
    """Send SIGTERM: the service exits with code 0 and leaves no process and no file."""
    processes = service.children()
    try:
        code: int | None = service.stop(timeout_s=STOP_S)
    except AssertionError:
        code = None
    if code != 0:
        yield f"exit code {code} after SIGTERM"
    if unanswered := re.search(r"\d+ requests are still being answered", service.log()):
        yield f"{unanswered[0]}, though all clients have left"
    if remaining := [process for process in processes if process.is_running()]:
        yield f"processes are left: {remaining}"
    if files := sorted(path.name for path in temp_dir.iterdir()):
        yield f"temporary files are left: {files}"
