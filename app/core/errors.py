"""Every way in which a request or a start can fail, as one exception tree.

    StartupError                the process cannot start: one line on the terminal, exit code 2
    └── DownloadFailed          exit code 1
    DeviceFailed                a worker's device is beyond use: the worker is replaced
    ServiceError                a request failed: code, HTTP status, error type
    ├── InvalidRequest          400
    │   ├── EmptyText, InvalidVoiceId, UnsupportedLanguage
    │   ├── PreloadedVoice      403
    │   ├── MethodNotAllowed    405
    │   ├── NotAcceptable       406
    │   ├── RequestTooSlow      408
    │   ├── VoiceExists         409
    │   ├── PayloadTooLarge     413
    │   │   └── TextTooLong
    │   ├── UnsupportedMedia    415
    │   ├── UnusableAudio       422
    │   └── HeadersTooLong      431
    ├── Unauthenticated         401
    │   └── TooManyWrongKeys    429
    ├── NotFound                404
    │   └── VoiceNotFound, ModelNotFound
    ├── QueueFull               429
    └── ServerFault             500
        ├── TooManyUploads      503
        ├── JobError            a job can end with it
        │   ├── EngineFailed, EncoderFailed, WorkerLost, PoisonRequest
        │   ├── NotReady, Draining, QueueTimeout, OutOfMemory   503
        │   └── ClientStalled, WorkerStalled    504
        └── TooManyConnections, StorageUnavailable 503, StorageFull 507

Raised anywhere, translated in two places: to HTTP by `http.error_handlers`, to a `JobFailed`
message by the worker. `from_code` turns such a message back into an exception.
"""

from collections.abc import Iterator
from typing import ClassVar, Self


class StartupError(Exception):
    """The process cannot start; the message is printed as one line, without a traceback."""


class DownloadFailed(StartupError):
    """A download broke off, or could not begin, for no mistake of the user's."""


class DeviceFailed(Exception):
    """The device of this process is unusable: every later call would fail, too."""


class ServiceError(Exception):
    """A request failed. `param` names the parameter that caused it, if one did.

    `retry_after_s` replaces that of the class where the moment is known better.
    """

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    retryable: ClassVar[bool] = False
    """Whether an immediate retry is likely to succeed; `retry_after_s` asks for a later one."""
    retry_after_s: int | None = None
    example: ClassVar[str] = "An internal error. The log has the details."
    """A message for the documentation, with `example_param`, which is not inherited."""
    example_param: ClassVar[str | None] = None

    def __init__(
        self, message: str, *, param: str | None = None, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if retry_after_s is not None:
            self.retry_after_s = retry_after_s

    @classmethod
    def as_example(cls) -> Self:
        return cls(cls.example, param=vars(cls).get("example_param"))


class InvalidRequest(ServiceError):
    code, status, type = "invalid_request", 400, "invalid_request_error"
    example, example_param = "'seed' must be at least 0.", "seed"


class EmptyText(InvalidRequest):
    code = "empty_text"
    example, example_param = "There is nothing in this text that can be spoken.", "text"


class InvalidVoiceId(InvalidRequest):
    code = "invalid_voice_id"
    example, example_param = "A voice id has no backslash.", "file"


class UnsupportedLanguage(InvalidRequest):
    code = "unsupported_language"
    example = "The model chatterbox does not speak German (de), only: en. …"
    example_param = "language"


class PreloadedVoice(InvalidRequest):
    code, status = "preloaded_voice", 403
    example, example_param = "A preloaded voice cannot be deleted here: …", "voice_id"


class MethodNotAllowed(InvalidRequest):
    code, status = "method_not_allowed", 405


class NotAcceptable(InvalidRequest):
    code, status = "not_acceptable", 406
    example = "The Accept header allows none of the types that are made here: …"


class RequestTooSlow(InvalidRequest):
    code, status, retryable = "request_too_slow", 408, True


class VoiceExists(InvalidRequest):
    code, status = "voice_exists", 409
    example, example_param = "There is a voice 'voice.wav' already. …", "file"


class PayloadTooLarge(InvalidRequest):
    code, status = "payload_too_large", 413
    example, example_param = "A voice file may have at most 25 MB (MAX_UPLOAD_MB).", "file"


class TextTooLong(PayloadTooLarge):
    code = "text_too_long"
    example, example_param = (
        "The text has 20001 characters, 20000 are allowed: send it in parts, or …",
        "text",
    )


class UnsupportedMedia(InvalidRequest):
    code, status = "unsupported_media_type", 415
    example = "The body came as text/plain; send application/json, as curl --json does: …"


class UnusableAudio(InvalidRequest):
    code, status = "unusable_audio", 422
    example, example_param = "The file cannot be used: it is silent.", "file"


class HeadersTooLong(InvalidRequest):
    code, status = "headers_too_long", 431


class Unauthenticated(ServiceError):
    code, status, type = "invalid_api_key", 401, "authentication_error"
    example = "The API key is missing. …"


class TooManyWrongKeys(Unauthenticated):
    code, status, type, retry_after_s = "too_many_wrong_keys", 429, "rate_limit_error", 60
    example = "Your address has sent 10 wrong API keys within a minute. …"


class NotFound(ServiceError):
    code, status, type = "not_found", 404, "not_found_error"


class VoiceNotFound(NotFound):
    code = "voice_not_found"
    example = (
        "There is no voice 'austn'. Is 'austen.wav' meant? There are austen.wav and voice.wav."
    )
    example_param = "voice_id"


class ModelNotFound(NotFound):
    code = "model_not_found"
    example, example_param = "There is no model 'gpt-5'.", "model"


class QueueFull(ServiceError):
    code, status, type, retry_after_s = "queue_full", 429, "rate_limit_error", 5
    example = "100 requests are waiting already (MAX_QUEUED_REQUESTS)"


class ServerFault(ServiceError):
    """The server caused the failure, not the client."""


class JobError(ServerFault):
    """A job ended with this error."""


class EngineFailed(JobError):
    code = "engine_error"
    example = "the speech engine failed"


class EncoderFailed(JobError):
    code = "encoder_error"
    example = "The audio could not be encoded: …"


class WorkerLost(JobError):
    code, retryable = "worker_lost", True
    example = "audio was lost between the worker and the main process"


class PoisonRequest(JobError):
    code = "poison_request"
    example = "the workers that tried this request died of it"


class NotReady(JobError):
    code, status, retry_after_s = "not_ready", 503, 5
    example = "no worker is ready yet"


class Draining(JobError):
    code, status, retry_after_s = "shutting_down", 503, 5
    example = "the server is shutting down"


class QueueTimeout(JobError):
    code, status, retry_after_s = "queue_timeout", 503, 5
    example = "no worker was free within 60 s (QUEUE_TIMEOUT_SECONDS)"


class OutOfMemory(JobError):
    """A worker's device has no memory left. The engine loses its jobs but remains usable."""

    code, status, retry_after_s = "out_of_memory", 503, 5
    example = "the device has no memory left for this request"


class TooManyConnections(ServerFault):
    code, status, retry_after_s = "too_many_connections", 503, 5
    example = "4096 connections are open already (MAX_CONNECTIONS)"


class StorageUnavailable(ServerFault):
    code, status, retry_after_s = "storage_unavailable", 503, 30
    example = "Voices cannot be stored or removed at the moment."


class TooManyUploads(ServerFault):
    code, status, retry_after_s = "too_many_uploads", 503, 10
    example = "8 voices are being uploaded and 16 more uploads wait."


class ClientStalled(JobError):
    code, status = "client_stalled", 504
    example = "the client took nothing for too long (CLIENT_STALL_SECONDS)"


class WorkerStalled(JobError):
    code, status = "worker_stalled", 504
    example = "the worker made no step for 120 s"


class StorageFull(ServerFault):
    code, status, retry_after_s = "storage_full", 507, 60
    example = "There is no space left for voices."


def error_types(root: type[ServiceError] = ServiceError) -> Iterator[type[ServiceError]]:
    """`root` and everything below it, parents before children."""
    yield root
    for child in root.__subclasses__():
        yield from error_types(child)


JOB_ERRORS = tuple(JobError.__subclasses__())
"""What jobs are expected to fail with: documented, and counted from 0."""

_BY_CODE = {kind.code: kind for kind in reversed([*error_types()])}  # a parent before its children


def from_code(code: str, message: str, param: str | None = None) -> ServiceError:
    """The exception for the code of a message; an unknown code is a ServerFault."""
    return _BY_CODE.get(code, ServerFault)(message, param=param)
