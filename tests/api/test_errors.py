import pytest

from app.api.errors import error_response
from app.api.examples import ERRORS
from app.errors import RequestTooSlow, ServiceError

WORTH_ANOTHER_TRY = {
    "queue_full",
    "not_ready",
    "shutting_down",
    "queue_timeout",
    "out_of_memory",
    "storage_unavailable",
    "request_too_slow",
    "worker_lost",
}


@pytest.mark.parametrize("kind", [*ERRORS, RequestTooSlow])
def test_an_error_says_whether_to_ask_again(kind: type[ServiceError]) -> None:
    headers = error_response(kind("it failed")).headers

    assert headers["X-Should-Retry"] == str(kind.code in WORTH_ANOTHER_TRY).lower()
    assert headers.get("Retry-After") == (kind.retry_after_s and str(kind.retry_after_s))
    assert headers["X-Should-Retry"] == "true" or "Retry-After" not in headers
