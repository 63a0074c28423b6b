"""What a correct service does passes, and each planted fault is a violation."""

import json
from random import Random
from time import monotonic
from typing import Any

import pytest

from app.core.errors import PoisonRequest, QueueFull, ServiceError, VoiceNotFound, WorkerLost
from tests.soak.checks import (
    MAX_GROWTH,
    Footprint,
    Violation,
    check_error,
    check_speech,
    check_success,
    growth,
    has_finished_a_job,
    log_violations,
)
from tests.soak.speech import Speech
from tests.soak.voices import VoiceHistory
from tests.support.http_client import Response

RANDOM = Random(1)
SPEECH = Speech.random(RANDOM, 30)
FILE = SPEECH.file()
ANOTHER = Speech.random(RANDOM, 30).file()
ANOTHER_VOICE = SPEECH.file(voice=1)

# --- responses ------------------------------------------------------------------------------------


def audio(body: bytes, complete: bool = True) -> Response:
    return Response(200, {"content-type": "audio/pcm"}, body, complete)


def refused(error: type[ServiceError], **changed: Any) -> Response:
    """Return the service's response to an error, with some attributes `changed`."""
    body = {"message": "it failed", "type": error.type, "code": error.code, "param": None}
    headers = {} if error.retry_after_s is None else {"retry-after": str(error.retry_after_s)}
    answer = {"status": error.status, "headers": headers, "body": json.dumps({"error": body})}
    answer |= changed
    return Response(answer["status"], answer["headers"], answer["body"].encode())


def test_allowed_responses() -> None:
    assert check_speech(audio(FILE), [FILE]) == "whole"
    assert check_speech(audio(ANOTHER_VOICE), [FILE, ANOTHER_VOICE]) == "whole"
    assert check_speech(audio(FILE[:5000], complete=False), [FILE], kills=1) == "cut"
    assert check_speech(refused(QueueFull), [FILE]) == "busy"
    assert check_speech(refused(VoiceNotFound), [FILE], voice_may_be_gone=True) == "gone"
    assert check_speech(refused(PoisonRequest), [FILE], kills=2) == "poisoned"
    assert check_success(Response(201, {}, b"{}"), 201) == "served"


BAD_SPEECH = {
    "a part with a clean end": audio(FILE[:-2]),
    "another request's audio": audio(ANOTHER),
    "two voices in turn": audio(FILE[:9600] + ANOTHER_VOICE[9600:]),
    "a sample lost": audio(FILE[:9600] + FILE[9602:]),
    "cut off for no reason": audio(FILE[:5000], complete=False),
    "a full queue without Retry-After": refused(QueueFull, headers={}),
    "a lost worker without a kill": refused(WorkerLost),
    "an error that is not of this status": refused(QueueFull, status=503),
    "an unknown error": refused(QueueFull, body='{"error": {"code": "odd", "message": ""}}'),
    "an error that is no JSON": refused(QueueFull, body="Internal Server Error"),
    "no content": Response(204, {}, b""),
}


@pytest.mark.parametrize("answer", BAD_SPEECH.values(), ids=BAD_SPEECH)
def test_wrong_speech_is_a_violation(answer: Response) -> None:
    with pytest.raises(Violation):
        check_speech(answer, [FILE])


def test_other_violations() -> None:
    for answer in (audio(FILE[:5000]), refused(WorkerLost), refused(PoisonRequest)):
        with pytest.raises(Violation):
            check_speech(answer, [FILE], kills=1)
    with pytest.raises(Violation):
        check_error(refused(VoiceNotFound), "invalid_api_key")
    with pytest.raises(Violation):
        check_success(Response(201, {}, b"{", complete=False), 201)


# --- the log --------------------------------------------------------------------------------------

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
NEXT = "2025-01-01 10:00:03,100"
OUTCOMES = {"a": "whole", "b": "left", "c": "cut", "d": "refused", "e": "left"}
PLANTED = {
    "a job that never ended": LOG.replace("job b#2 cancelled", "job b#2 sent"),
    "a job that ended twice": f"{LOG}{NEXT} INFO    master: job b#2 done: \n",
    "a whole answer of a failed job": LOG.replace("a#1 done", "a#1 failed (poison_request: y)"),
    "a failure that no kill explains": LOG.replace(f"{KILLED}):", "no):"),
    "a job of a refused request": f"{LOG}{NEXT} INFO    master: job d#4 done: \n",
    "a warning of the interpreter": f"{LOG}x.py:1: RuntimeWarning: was never awaited\n",
    "an error": f"{LOG}{NEXT} ERROR   master: Task was destroyed\n",
    "one more death": f"{LOG}{NEXT} ERROR   master: worker cpu.1: {DEATH}\n",
}


def test_correct_log_passes() -> None:
    assert [*log_violations(LOG, OUTCOMES, kills=1)] == []


@pytest.mark.parametrize("log", PLANTED.values(), ids=PLANTED)
def test_fault_in_the_log_is_one_violation(log: str) -> None:
    assert len([*log_violations(log, OUTCOMES, kills=1)]) == 1


def test_log_that_lacks_a_death_or_a_job_is_a_violation() -> None:
    assert len([*log_violations(LOG, OUTCOMES, kills=2)]) == 1
    assert len([*log_violations(LOG, OUTCOMES | {"f": "whole"}, kills=1)]) == 1


def test_only_jobs_of_the_current_process_count() -> None:
    first_process = LOG[: LOG.index("job b#2 requeued")]
    assert has_finished_a_job(first_process, "cpu.0")
    assert not has_finished_a_job(LOG, "cpu.0")


# --- leaks and voices -----------------------------------------------------------------------------


def test_growth_beyond_its_limit_is_a_violation() -> None:
    before = Footprint(100, 35, 15, 5)
    limit = Footprint(*map(sum, zip(before, MAX_GROWTH.values(), strict=True)))
    assert [*growth(before, limit)] == []
    for name, value in limit._asdict().items():
        assert len([*growth(before, limit._replace(**{name: value + 1}))]) == 1
    assert len([*growth(before, before._replace(descriptors=32))]) == 1


def test_versions_of_a_voice_before_during_and_after_a_change() -> None:
    history = VoiceHistory("a.wav")
    before = monotonic()
    with history.changing_to(7):
        during = monotonic()
    after = monotonic()
    assert history.between(before, before) == {None}
    assert history.between(during, during) == history.between(before, after) == {None, 7}
    assert history.between(after, after) == {history.current} == {7}
    with pytest.raises(Violation), history.changing_to(None):
        raise Violation("no answer")
    assert history.between(monotonic(), monotonic()) == {None, 7}
