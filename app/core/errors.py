"""Every way in which a request or a start can fail, as one exception tree.

    StartupError                the process cannot start: one line on the terminal, exit code 2
    DeviceFailed                a worker's device is beyond use: the worker is replaced
    ServiceError                a request failed: code, HTTP status, error type
    ├── InvalidRequest          400
    │   ├── EmptyText, InvalidVoiceId
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
    ├── NotFound                404
    │   └── VoiceNotFound, ModelNotFound
    ├── QueueFull               429
    └── ServerFault             500
        ├── EngineFailed, EncoderFailed, WorkerLost, PoisonRequest
        ├── NotReady, Draining, QueueTimeout, OutOfMemory, StorageUnavailable   503
        ├── ClientStalled, WorkerStalled    504
        └── StorageFull         507

Raised anywhere, translated in two places: to HTTP by `api.errors`, to a `JobFailed` message by
`worker.jobs`. `from_code` is the way back from that message.
"""

from typing import ClassVar


class StartupError(Exception):
    """The process cannot start; the message is shown as one line, without a traceback."""


class DeviceFailed(Exception):
    """Every later call on this process's device would fail, too; raised by engines."""


class ServiceError(Exception):
    """A request failed. `param` names the request's parameter at fault, where there is one."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    retryable: ClassVar[bool] = False
    """Whether the same request is likely to fare better at once; later, with `retry_after_s`."""
    retry_after_s: ClassVar[int | None] = None

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class InvalidRequest(ServiceError):
    code, status, type = "invalid_request", 400, "invalid_request_error"


class EmptyText(InvalidRequest):
    code = "empty_text"


class InvalidVoiceId(InvalidRequest):
    code = "invalid_voice_id"


class PreloadedVoice(InvalidRequest):
    code, status = "preloaded_voice", 403


class MethodNotAllowed(InvalidRequest):
    code, status = "method_not_allowed", 405


class NotAcceptable(InvalidRequest):
    code, status = "not_acceptable", 406


class RequestTooSlow(InvalidRequest):
    code, status, retryable = "request_too_slow", 408, True


class VoiceExists(InvalidRequest):
    code, status = "voice_exists", 409


class PayloadTooLarge(InvalidRequest):
    code, status = "payload_too_large", 413


class TextTooLong(PayloadTooLarge):
    code = "text_too_long"


class UnsupportedMedia(InvalidRequest):
    code, status = "unsupported_media_type", 415


class UnusableAudio(InvalidRequest):
    code, status = "unusable_audio", 422


class HeadersTooLong(InvalidRequest):
    code, status = "headers_too_long", 431


class Unauthenticated(ServiceError):
    code, status, type = "invalid_api_key", 401, "authentication_error"


class NotFound(ServiceError):
    code, status, type = "not_found", 404, "not_found_error"


class VoiceNotFound(NotFound):
    code = "voice_not_found"


class ModelNotFound(NotFound):
    code = "model_not_found"


class QueueFull(ServiceError):
    code, status, type, retry_after_s = "queue_full", 429, "rate_limit_error", 5


class ServerFault(ServiceError):
    """Not the client's doing."""


class EngineFailed(ServerFault):
    code = "engine_error"


class EncoderFailed(ServerFault):
    code = "encoder_error"


class WorkerLost(ServerFault):
    code, retryable = "worker_lost", True


class PoisonRequest(ServerFault):
    code = "poison_request"


class NotReady(ServerFault):
    code, status, retry_after_s = "not_ready", 503, 5


class Draining(ServerFault):
    code, status, retry_after_s = "shutting_down", 503, 5


class QueueTimeout(ServerFault):
    code, status, retry_after_s = "queue_timeout", 503, 5


class OutOfMemory(ServerFault):
    """Of a worker's device. Raised by engines, whose work so far is lost, but which go on."""

    code, status, retry_after_s = "out_of_memory", 503, 5


class StorageUnavailable(ServerFault):
    code, status, retry_after_s = "storage_unavailable", 503, 30


class ClientStalled(ServerFault):
    code, status = "client_stalled", 504


class WorkerStalled(ServerFault):
    code, status = "worker_stalled", 504


class StorageFull(ServerFault):
    code, status = "storage_full", 507


def _tree(root: type[ServiceError]) -> dict[str, type[ServiceError]]:
    found = {root.code: root}
    for child in root.__subclasses__():
        found |= {code: kind for code, kind in _tree(child).items() if code not in found}
    return found


_BY_CODE = _tree(ServiceError)


def from_code(code: str, message: str, param: str | None = None) -> ServiceError:
    """The exception that a message with this code stands for; an unknown code is a server fault."""
    return _BY_CODE.get(code, ServerFault)(message, param=param)
