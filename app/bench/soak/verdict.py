"""What one answer says of the service: an outcome that may be, or a `Violation`. Pure functions.

Called by `bench.soak.clients` with what came and with all that may come.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from app.bench.service import Violation
from app.core.errors import PoisonRequest, QueueFull, ServiceError, VoiceNotFound, from_code


@dataclass(frozen=True)
class Answer:
    """`headers` in lower case; `complete`: with the end that HTTP promises."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    complete: bool = True


def judge_speech(
    answer: Answer, files: Collection[bytes], *, kills: int = 0, voice_may_be_gone: bool = False
) -> str:
    """Of a generation. `files`: whichever it may be, whole; `kills` of workers while it ran.

    Returns `whole`; `cut` or `poisoned`, by killed workers; `busy`, if the queue is full; `gone`.
    """
    if answer.status == 200:
        return _judge_audio(answer, files, kills)
    may_be: list[type[ServiceError]] = [QueueFull]
    if voice_may_be_gone:
        may_be.append(VoiceNotFound)
    if kills >= 2:
        may_be.append(PoisonRequest)
    judge_refusal(answer, *may_be)
    return {429: "busy", 404: "gone", 500: "poisoned"}[answer.status]


def judge_refusal(answer: Answer, *may_be: type[ServiceError]) -> str:
    """Of a request that is to be refused with one of these errors, in the one error shape."""
    found = _error_in(answer)
    if type(found) not in may_be:
        expected = " or ".join(error.code for error in may_be)
        raise Violation(f"{answer.status} {found.code} in place of {expected}: {found.message}")
    return "refused"


def judge_success(answer: Answer, status: int) -> str:
    """Of a request that is simply to succeed."""
    if answer.status != status or not answer.complete:
        raise Violation(f"{_told(answer)} in place of {status}")
    return "served"


def _judge_audio(answer: Answer, files: Collection[bytes], kills: int) -> str:
    begun = any(file.startswith(answer.body) for file in files)
    if not begun:
        raise Violation(f"{_told(answer)} is not the audio of this text, seed and voice")
    if answer.complete:
        if answer.body not in files:
            raise Violation(f"{_told(answer)} is only a part, with a clean end")
        return "whole"
    if not kills:
        raise Violation(f"{_told(answer)} was cut off, though no worker was killed")
    return "cut"


def _error_in(answer: Answer) -> ServiceError:
    """The error that the body tells; all else of the answer is as it must be for this one."""
    if not answer.complete:
        raise Violation(f"{_told(answer)} was cut off")
    try:
        told = json.loads(answer.body)["error"]
        error = from_code(told["code"], told["message"])
        one_shape = {"message": str(told["message"]), "type": error.type, "code": error.code}
        in_shape = told == one_shape | {"param": told["param"]}
    except (ValueError, TypeError, LookupError):
        in_shape = False
    if not in_shape or error.status != answer.status:
        raise Violation(f"{_told(answer)} is no error in the one shape")
    if error.retry_after_s is not None and not answer.headers.get("retry-after", "").isdecimal():
        raise Violation(f"{_told(answer)} comes without Retry-After")
    return error


def _told(answer: Answer) -> str:
    kind = answer.headers.get("content-type", "no type")
    shown = f" {answer.body[:200]!r}" if answer.status != 200 else ""
    return f"{answer.status} with {len(answer.body)} bytes of {kind}{shown}"
