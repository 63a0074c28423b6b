"""Checks of a service's log after a soak: how each job ended, and which faults were logged."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping

from app.core.errors import PoisonRequest, WorkerLost

END = re.compile(r" master: job (\S+)#(\d+) (done|failed|cancelled)\b")
RETRY = re.compile(r" master: job \S+ requeued: ")
NORMAL_LINE = re.compile(r"\d{4}-\d\d-\d\d \S+ (?:INFO|WARNING) ")
"""The beginning of a log line without a fault; no line of a traceback begins so."""

FAILURE = re.compile(r" master: job (\S+)#\d+ failed \((\w+): (.*?)\)")
KILLED = "was killed by signal 9 "
DEATH = re.compile(r" ERROR +master: worker \S+: the worker was killed by signal 9 ")

JOB_ENDS = {"whole": ["done"], "cut": ["failed"], "poisoned": ["failed"]}
"""How the job of a request ends, by the client's outcome; other requests have no job."""

UNDECIDED = ("left", "broken")
"""Outcomes with which the job may have ended in any way."""


def has_finished_a_job(log: str, worker: str) -> bool:
    """Return whether the worker's current process has finished a job."""
    since_start = log[log.rfind(f" worker {worker} started ") :]
    done = rf" master: job \S+ done: .*\bworker={re.escape(worker)}\b"
    return bool(re.search(done, since_start))


def retries(log: str) -> int:
    return len(RETRY.findall(log))


def violations(log: str, outcomes: Mapping[str, str], kills: int) -> Iterator[str]:
    """Check the log against the clients' `outcomes` by request id and the number of kills."""
    yield from _check_jobs(END.findall(log), outcomes)
    for job, code, reason in FAILURE.findall(log):
        if code != PoisonRequest.code and not (code == WorkerLost.code and KILLED in reason):
            yield f"job {job} failed, but not since its worker was killed: {code}, {reason}"
    faults = [line for line in log.splitlines() if not NORMAL_LINE.match(line)]
    deaths = [line for line in faults if DEATH.search(line)]
    if len(deaths) != kills:
        yield f"{kills} workers were killed, but {len(deaths)} deaths were noticed"
    yield from (f"the log says: {line}" for line in faults if line not in deaths)


def _check_jobs(ends: list[tuple[str, str, str]], outcomes: Mapping[str, str]) -> Iterator[str]:
    """Accepted jobs are numbered from 1 on; each must end once."""
    times = Counter(int(number) for _, number, _ in ends)
    for number in range(1, max(times, default=0) + 1):
        if times[number] != 1:
            yield f"accepted job {number} has ended {times[number]} times"
    by_request: dict[str, list[str]] = {}
    for request, _, end in ends:
        by_request.setdefault(request, []).append(end)
    for request, outcome in outcomes.items():
        found = by_request.get(request, [])
        if outcome not in UNDECIDED and found != JOB_ENDS.get(outcome, []):
            yield f"{request} is {outcome} for its client, {found} for the service"
