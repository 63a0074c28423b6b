"""Checks of a log: a correct one passes, each planted fault is one violation."""

from collections.abc import Mapping

import pytest

from tests.soak.log_checks import has_finished_a_job, retries, violations

KILLED = "the worker was killed by signal 9 (Killed)"
DEATH = f"{KILLED}; next start in 1 s"
LOG = f"""\
2025-01-01 10:00:00,100 INFO    master: worker cpu.0 started on cpu, pid 7
2025-01-01 10:00:01,100 INFO    master: job a#1 done: characters=5 worker=cpu.0 wait_s=0.000
2025-01-01 10:00:01,200 INFO    master: job b#2 requeued: worker cpu.0 exited before any audio
2025-01-01 10:00:01,210 ERROR   master: worker cpu.0: {DEATH}
2025-01-01 10:00:02,100 INFO    master: worker cpu.0 started on cpu, pid 8
2025-01-01 10:00:02,300 INFO    master: job b#2 cancelled: characters=5 worker=cpu.1
2025-01-01 10:00:02,310 INFO    master: job c#3 failed (worker_lost: {KILLED}): worker=cpu.1
2025-01-01 10:00:02,320 WARNING master: c: response aborted: it was killed
"""
OUTCOMES = {"a": "whole", "b": "left", "c": "cut", "d": "refused", "e": "left"}


def found(log: str, outcomes: Mapping[str, str] = OUTCOMES, kills: int = 1) -> list[str]:
    return list(violations(log, outcomes, kills))


def test_correct_log_passes() -> None:
    assert found(LOG) == []
    assert retries(LOG) == 1


def test_finished_jobs_of_earlier_processes_do_not_count() -> None:
    first_process = LOG[: LOG.index("job b#2 requeued")]
    assert has_finished_a_job(first_process, "cpu.0")
    assert not has_finished_a_job(LOG, "cpu.0")
    assert not has_finished_a_job(first_process, "cpu.1")


PLANTED = {
    "a job that never ended": LOG.replace("job b#2 cancelled", "job b#2 sent"),
    "a job that ended twice": LOG + "2025-01-01 10:00:03,100 INFO    master: job b#2 done: \n",
    "a whole answer of a failed job": LOG.replace("a#1 done", "a#1 failed (poison_request: y)"),
    "a failure that no kill explains": LOG.replace(f"{KILLED}):", "no):"),
    "a cut answer of a job that was done": LOG.replace("c#3 failed", "c#3 done"),
    "a job of a refused request": LOG + "2025-01-01 10:00:03,100 INFO    master: job d#4 done: \n",
    "a traceback": LOG + "Traceback (most recent call last):\n",
    "a warning of the interpreter": LOG + "x.py:1: RuntimeWarning: coroutine was never awaited\n",
    "an error": LOG + "2025-01-01 10:00:03,100 ERROR   master: Task was destroyed\n",
    "an open circuit": LOG
    + "2025-01-01 10:00:03,100 CRITICAL master: worker cpu.0: circuit open\n",
    "one more death": LOG + f"2025-01-01 10:00:03,100 ERROR   master: worker cpu.1: {DEATH}\n",
}


@pytest.mark.parametrize("log", PLANTED.values(), ids=PLANTED)
def test_planted_fault_is_one_violation(log: str) -> None:
    assert len(found(log)) == 1


def test_unnoticed_death_is_a_violation() -> None:
    assert len(found(LOG, kills=2)) == 1


def test_complete_response_without_a_job_is_a_violation() -> None:
    assert len(found(LOG, OUTCOMES | {"f": "whole"})) == 1
