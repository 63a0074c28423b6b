"""What the log of a service tells of its jobs and its workers. Pure functions of the log's text.

Called by `bench.soak.soak`: for victims while it runs, for what is wrong when it is over.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping

from app.core.errors import PoisonRequest, WorkerLost

ENDING = re.compile(r" master: job (\S+)#(\d+) (done|failed|cancelled)\b")
RETRY = re.compile(r" master: job \S+ retried: ")
FINE = re.compile(r"\d{4}-\d\d-\d\d \S+ (?:INFO|WARNING) ")
"""How a line begins that tells of no fault; a traceback has no such lines."""

FAILURE = re.compile(r" master: job (\S+)#\d+ failed \((\w+): (.*?)\)")
KILLED = "was killed by signal 9 "

DEATH = re.compile(r" ERROR +master: worker \S+: the worker was killed by signal 9 ")

ENDINGS = {"whole": ["done"], "cut": ["failed"], "poisoned": ["failed"]}
"""By what a client says of its request, how its job ended; any other request made no job."""

UNKNOWN = ("left", "broken")
"""Of these no client can say."""


def has_finished_a_job(log: str, worker: str) -> bool:
    """Whether the present process of this worker has."""
    present = log[log.rfind(f" worker {worker} started ") :]
    return bool(re.search(rf" master: job \S+ done: .*\bworker={re.escape(worker)}\b", present))


def retries(log: str) -> int:
    return len(RETRY.findall(log))


def violations(log: str, outcomes: Mapping[str, str], kills: int) -> Iterator[str]:
    """`outcomes` of generations by request id."""
    yield from _of_jobs(ENDING.findall(log), outcomes)
    for job, code, reason in FAILURE.findall(log):
        if code != PoisonRequest.code and not (code == WorkerLost.code and KILLED in reason):
            yield f"job {job} failed, but not since its worker was killed: {code}, {reason}"
    faults = [line for line in log.splitlines() if not FINE.match(line)]
    deaths = [line for line in faults if DEATH.search(line)]
    if len(deaths) != kills:
        yield f"{kills} workers were killed, but {len(deaths)} deaths were noticed"
    yield from (f"the log says: {line}" for line in faults if line not in deaths)


def _of_jobs(endings: list[tuple[str, str, str]], outcomes: Mapping[str, str]) -> Iterator[str]:
    """Accepted jobs are numbered from 1 on: each number is to end once."""
    times = Counter(int(number) for _, number, _ in endings)
    for number in range(1, max(times, default=0) + 1):
        if times[number] != 1:
            yield f"accepted job {number} has ended {times[number]} times"
    ended: dict[str, list[str]] = {}
    for request, _, ending in endings:
        ended.setdefault(request, []).append(ending)
    for request, outcome in outcomes.items():
        found = ended.get(request, [])
        if outcome not in UNKNOWN and found != ENDINGS.get(outcome, []):
            yield f"{request} is {outcome} for its client, {found} for the service"
