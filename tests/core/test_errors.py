from collections.abc import Iterator

import pytest

from app.core import errors
from app.core.errors import ServiceError, from_code

DOCUMENTED = {
    400: {"invalid_request", "empty_text", "invalid_voice_id", "unsupported_language"},
    401: {"invalid_api_key"},
    403: {"preloaded_voice"},
    404: {"not_found", "voice_not_found", "model_not_found"},
    405: {"method_not_allowed"},
    406: {"not_acceptable"},
    408: {"request_too_slow"},
    409: {"voice_exists"},
    413: {"payload_too_large", "text_too_long"},
    415: {"unsupported_media_type"},
    422: {"unusable_audio"},
    429: {"queue_full", "too_many_wrong_keys"},
    431: {"headers_too_long"},
    500: {"internal_error", "engine_error", "encoder_error", "worker_lost", "poison_request"},
    503: {
        *("not_ready", "shutting_down", "queue_timeout", "storage_unavailable", "out_of_memory"),
        "too_many_uploads",
        "too_many_connections",
    },
    504: {"client_stalled", "worker_stalled"},
    507: {"storage_full"},
}


def family(root: type[ServiceError]) -> Iterator[type[ServiceError]]:
    yield root
    for child in root.__subclasses__():
        yield from family(child)


OWN_CODES = [kind for kind in family(ServiceError) if "code" in vars(kind)]


def test_every_code_has_its_documented_status() -> None:
    found: dict[int, set[str]] = {}
    for kind in family(ServiceError):
        found.setdefault(kind.status, set()).add(kind.code)
    assert found == DOCUMENTED


def test_a_code_names_one_kind_of_error() -> None:
    codes = [kind.code for kind in OWN_CODES]
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize("kind", OWN_CODES, ids=lambda kind: kind.code)
def test_a_code_leads_back_to_its_error(kind: type[ServiceError]) -> None:
    error = from_code(kind.code, "why")
    assert type(error) is kind
    assert error.message == str(error) == "why"
    assert error.param is None
    assert from_code(kind.code, "why", "text").param == "text"


def test_an_unknown_code_is_a_server_fault() -> None:
    assert type(from_code("brand_new", "why")) is errors.ServerFault


def test_error_type_follows_from_status() -> None:
    for kind in family(ServiceError):
        expected = {
            401: "authentication_error",
            404: "not_found_error",
            429: "rate_limit_error",
        }.get(kind.status, "invalid_request_error" if kind.status < 500 else "server_error")
        assert kind.type == expected, kind


def test_retryable_statuses_have_retry_after() -> None:
    for kind in family(ServiceError):
        assert (kind.retry_after_s is not None) == (kind.status in (429, 503, 507)), kind
