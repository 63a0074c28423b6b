import pytest

from app.core.errors import NotReady, RequestTooSlow, ServiceError
from app.http.error_handlers import ErrorResponse, error_body
from app.http.openapi import ERROR_EXAMPLES

RETRYABLE = {
    "queue_full",
    "not_ready",
    "shutting_down",
    "queue_timeout",
    "out_of_memory",
    "storage_unavailable",
    "storage_full",
    "too_many_uploads",
    "request_too_slow",
    "worker_lost",
    "too_many_connections",
    "too_many_wrong_keys",
}


@pytest.mark.parametrize("kind", [*ERROR_EXAMPLES, RequestTooSlow])
def test_error_headers_say_whether_to_retry(kind: type[ServiceError]) -> None:
    headers = ErrorResponse(kind("it failed")).headers

    assert headers["X-Should-Retry"] == str(kind.code in RETRYABLE).lower()
    assert headers.get("Retry-After") == (kind.retry_after_s and str(kind.retry_after_s))
    assert headers["X-Should-Retry"] == "true" or "Retry-After" not in headers


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("no worker is ready yet", "No worker is ready yet."),
        ("The text is empty.", "The text is empty."),
        ("'seed' must be at least 0.", "'seed' must be at least 0."),
        (
            "the worker was killed by signal 9 (Killed)",
            "The worker was killed by signal 9 (Killed).",
        ),
    ],
)
def test_message_is_a_sentence(reason: str, message: str) -> None:
    assert error_body(NotReady(reason))["error"]["message"] == message
