"""The judge takes every answer that may be, and sees every fault that is planted in one."""

import json
from random import Random
from typing import Any

import pytest

from app.audio.formats import ENCODERS
from app.bench.service import Violation
from app.bench.soak.speech import Speech
from app.bench.soak.verdict import Answer, judge_refusal, judge_speech, judge_success
from app.core.errors import (
    InvalidRequest,
    PoisonRequest,
    QueueFull,
    ServiceError,
    Unauthenticated,
    VoiceNotFound,
    WorkerLost,
)

RANDOM = Random(1)
SPEECH = Speech.random(RANDOM, 30)
FILE = SPEECH.file()
ANOTHER = Speech.random(RANDOM, 30).file()
ANOTHER_VOICE = SPEECH.file(voice=1)


def audio(body: bytes, complete: bool = True) -> Answer:
    return Answer(200, {"content-type": "audio/pcm"}, body, complete)


def refused(error: ServiceError, **changed: Any) -> Answer:
    """As the service tells of it, but for what is `changed`."""
    told = {"message": error.message, "type": error.type, "code": error.code, "param": None}
    headers = {} if error.retry_after_s is None else {"retry-after": str(error.retry_after_s)}
    answer = {"status": error.status, "headers": headers, "body": json.dumps({"error": told})}
    answer |= changed
    return Answer(answer["status"], answer["headers"], answer["body"].encode())


# --- what may be ----------------------------------------------------------------------------------


def test_a_whole_answer() -> None:
    assert judge_speech(audio(FILE), [FILE]) == "whole"


def test_one_of_two_versions_of_a_voice() -> None:
    assert judge_speech(audio(ANOTHER_VOICE), [FILE, ANOTHER_VOICE]) == "whole"


def test_an_answer_that_a_killed_worker_left() -> None:
    assert judge_speech(audio(FILE[:5000], complete=False), [FILE], kills=1) == "cut"


def test_a_full_queue_and_a_deleted_voice() -> None:
    assert judge_speech(refused(QueueFull("full")), [FILE]) == "busy"
    gone = refused(VoiceNotFound("gone"))
    assert judge_speech(gone, [FILE], voice_may_be_gone=True) == "gone"


def test_a_job_that_has_met_two_killed_workers() -> None:
    assert judge_speech(refused(PoisonRequest("two died")), [FILE], kills=2) == "poisoned"


def test_an_expected_refusal_and_a_success() -> None:
    assert judge_refusal(refused(Unauthenticated("no")), Unauthenticated) == "refused"
    assert judge_success(Answer(201, {}, b"{}"), 201) == "served"


# --- what may not ---------------------------------------------------------------------------------

BAD_SPEECH = {
    "a part with a clean end": audio(FILE[:-2]),
    "nothing with a clean end": audio(b""),
    "another's audio": audio(ANOTHER),
    "another voice's audio": audio(ANOTHER_VOICE),
    "two voices in turn": audio(FILE[:9600] + ANOTHER_VOICE[9600:]),
    "one sample too many": audio(FILE + b"\0\0"),
    "a sample lost": audio(FILE[:9600] + FILE[9602:]),
    "a slice said twice": audio(FILE[:9600] + FILE),
    "cut off for no reason": audio(FILE[:5000], complete=False),
    "a full queue without Retry-After": refused(QueueFull("full"), headers={}),
    "Retry-After without a number": refused(QueueFull("full"), headers={"retry-after": "soon"}),
    "a voice that was always there": refused(VoiceNotFound("gone")),
    "a lost worker that nobody killed": refused(WorkerLost("lost")),
    "a poisonous request that met no death": refused(PoisonRequest("two died")),
    "an error that is not of this status": refused(QueueFull("full"), status=503),
    "an error that nobody knows": refused(
        QueueFull("full"), body='{"error": {"code": "odd", "message": ""}}'
    ),
    "an error in another shape": refused(QueueFull("full"), body='{"detail": "full"}'),
    "an error that is no JSON": refused(QueueFull("full"), body="Internal Server Error"),
    "no content": Answer(204, {}, b""),
}


@pytest.mark.parametrize("answer", BAD_SPEECH.values(), ids=BAD_SPEECH)
def test_a_planted_fault_is_a_violation(answer: Answer) -> None:
    with pytest.raises(Violation):
        judge_speech(answer, [FILE])


def test_what_a_kill_does_not_excuse() -> None:
    for answer in (
        audio(FILE[:5000]),
        audio(ANOTHER[:5000], complete=False),
        refused(WorkerLost("lost")),
        refused(PoisonRequest("one died")),
    ):
        with pytest.raises(Violation):
            judge_speech(answer, [FILE], kills=1)


def test_another_refusal_than_the_expected_one_is_a_violation() -> None:
    for answer in (refused(InvalidRequest("no")), audio(FILE), Answer(500, {}, b"")):
        with pytest.raises(Violation):
            judge_refusal(answer, Unauthenticated)


def test_a_success_that_is_none_is_a_violation() -> None:
    for answer in (Answer(200, {}, b"{}"), Answer(201, {}, b"{", complete=False)):
        with pytest.raises(Violation):
            judge_success(answer, 201)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("form", ENCODERS)
def test_every_format_is_known_byte_by_byte(form: str, stream: bool) -> None:
    speech = Speech(SPEECH.text, SPEECH.params, form, stream)
    whole = speech.file()
    assert judge_speech(audio(whole), [speech.file()]) == "whole"
    with pytest.raises(Violation):
        judge_speech(audio(speech.file(voice=1)), [whole])
    with pytest.raises(Violation):
        judge_speech(audio(whole[:-1]), [whole])
