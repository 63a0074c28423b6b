"""Each allowed response passes, and each planted fault is a violation."""

import json
from random import Random
from typing import Any

import pytest

from app.audio.formats import ENCODERS
from app.core.errors import (
    InvalidRequest,
    PoisonRequest,
    QueueFull,
    ServiceError,
    Unauthenticated,
    VoiceNotFound,
    WorkerLost,
)
from tests.soak.response_checks import Violation, check_error, check_speech, check_success
from tests.soak.speech import Speech
from tests.support.http_client import Response

RANDOM = Random(1)
SPEECH = Speech.random(RANDOM, 30)
FILE = SPEECH.file()
ANOTHER = Speech.random(RANDOM, 30).file()
ANOTHER_VOICE = SPEECH.file(voice=1)


def audio(body: bytes, complete: bool = True) -> Response:
    return Response(200, {"content-type": "audio/pcm"}, body, complete)


def refused(error: ServiceError, **changed: Any) -> Response:
    """Return the service's response to `error`, with some attributes `changed`."""
    body = {"message": error.message, "type": error.type, "code": error.code, "param": None}
    headers = {} if error.retry_after_s is None else {"retry-after": str(error.retry_after_s)}
    answer = {"status": error.status, "headers": headers, "body": json.dumps({"error": body})}
    answer |= changed
    return Response(answer["status"], answer["headers"], answer["body"].encode())


# --- allowed --------------------------------------------------------------------------------------


def test_complete_response() -> None:
    assert check_speech(audio(FILE), [FILE]) == "whole"


def test_either_version_of_a_voice() -> None:
    assert check_speech(audio(ANOTHER_VOICE), [FILE, ANOTHER_VOICE]) == "whole"


def test_response_cut_by_a_kill() -> None:
    assert check_speech(audio(FILE[:5000], complete=False), [FILE], kills=1) == "cut"


def test_full_queue_and_deleted_voice() -> None:
    assert check_speech(refused(QueueFull("full")), [FILE]) == "busy"
    gone = refused(VoiceNotFound("gone"))
    assert check_speech(gone, [FILE], voice_may_be_gone=True) == "gone"


def test_poisoned_request_after_two_kills() -> None:
    assert check_speech(refused(PoisonRequest("two died")), [FILE], kills=2) == "poisoned"


def test_expected_error_and_success() -> None:
    assert check_error(refused(Unauthenticated("no")), Unauthenticated) == "refused"
    assert check_success(Response(201, {}, b"{}"), 201) == "served"


# --- planted faults -------------------------------------------------------------------------------

BAD_SPEECH = {
    "a part with a clean end": audio(FILE[:-2]),
    "nothing with a clean end": audio(b""),
    "another request's audio": audio(ANOTHER),
    "another voice's audio": audio(ANOTHER_VOICE),
    "two voices in turn": audio(FILE[:9600] + ANOTHER_VOICE[9600:]),
    "one sample too many": audio(FILE + b"\0\0"),
    "a sample lost": audio(FILE[:9600] + FILE[9602:]),
    "a slice repeated": audio(FILE[:9600] + FILE),
    "cut off for no reason": audio(FILE[:5000], complete=False),
    "a full queue without Retry-After": refused(QueueFull("full"), headers={}),
    "Retry-After without a number": refused(QueueFull("full"), headers={"retry-after": "soon"}),
    "a voice that was always there": refused(VoiceNotFound("gone")),
    "a lost worker without a kill": refused(WorkerLost("lost")),
    "a poisoned request without a kill": refused(PoisonRequest("two died")),
    "an error that is not of this status": refused(QueueFull("full"), status=503),
    "an unknown error": refused(
        QueueFull("full"), body='{"error": {"code": "odd", "message": ""}}'
    ),
    "an error in another shape": refused(QueueFull("full"), body='{"detail": "full"}'),
    "an error that is no JSON": refused(QueueFull("full"), body="Internal Server Error"),
    "no content": Response(204, {}, b""),
}


@pytest.mark.parametrize("answer", BAD_SPEECH.values(), ids=BAD_SPEECH)
def test_planted_fault_is_a_violation(answer: Response) -> None:
    with pytest.raises(Violation):
        check_speech(answer, [FILE])


def test_fault_that_a_kill_does_not_explain_is_a_violation() -> None:
    for answer in (
        audio(FILE[:5000]),
        audio(ANOTHER[:5000], complete=False),
        refused(WorkerLost("lost")),
        refused(PoisonRequest("one died")),
    ):
        with pytest.raises(Violation):
            check_speech(answer, [FILE], kills=1)


def test_unexpected_error_is_a_violation() -> None:
    for answer in (refused(InvalidRequest("no")), audio(FILE), Response(500, {}, b"")):
        with pytest.raises(Violation):
            check_error(answer, Unauthenticated)


def test_wrong_or_cut_success_is_a_violation() -> None:
    for answer in (Response(200, {}, b"{}"), Response(201, {}, b"{", complete=False)):
        with pytest.raises(Violation):
            check_success(answer, 201)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("form", ENCODERS)
def test_every_format_is_compared_byte_by_byte(form: str, stream: bool) -> None:
    speech = Speech(SPEECH.text, SPEECH.params, form, stream)
    whole = speech.file()
    assert check_speech(audio(whole), [speech.file()]) == "whole"
    with pytest.raises(Violation):
        check_speech(audio(speech.file(voice=1)), [whole])
    with pytest.raises(Violation):
        check_speech(audio(whole[:-1]), [whole])
