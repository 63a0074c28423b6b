"""Schemathesis: requests that the OpenAPI schema allows and forbids, sent to a real service."""

from types import SimpleNamespace
from typing import Any

import schemathesis
from hypothesis import settings
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from app.observability.metrics import Metrics
from app.server.app import create_app
from app.settings import Settings
from tests.support.fake_backend import MODEL
from tests.support.service import API_KEY, Service

SETTINGS = Settings(api_key=API_KEY)
STATE: Any = SimpleNamespace(
    settings=SETTINGS, metrics=Metrics(), backend=SimpleNamespace(models=[MODEL])
)
SCHEMA = create_app(STATE).openapi()

BEYOND_ANY_SCHEMA = {
    "empty_text",
    "invalid_voice_id",
    "model_not_found",
    "unsupported_language",
    "unusable_audio",
    "voice_exists",
    "voice_not_found",
}
"""Routes that may refuse requests of the right form."""

load_all_checks()
[ACCEPTS_ALL_THAT_IS_VALID] = CHECKS.get_by_names(["positive_data_acceptance"])


def strict() -> schemathesis.BaseSchema:
    """Return the schema without its `default` responses, so that they excuse no server error."""
    paths = {
        path: {
            method: operation | {"responses": _without(operation["responses"], "default")}
            for method, operation in operations.items()
        }
        for path, operations in SCHEMA["paths"].items()
    }
    schema = schemathesis.openapi.from_dict(SCHEMA | {"paths": paths})
    schema.config.generation.update(modes=list(GenerationMode), with_security_parameters=False)
    schema.config.checks.not_a_server_error.expected_statuses += ["503", "504", "507"]
    return schema


def _without(mapping: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if key != name}


@strict().parametrize()
@settings(max_examples=settings().max_examples // 10)
def test_any_request_gets_a_documented_response(case: schemathesis.Case, service: Service) -> None:
    answer = case.call_and_validate(
        base_url=service.url,
        headers={"X-API-Key": API_KEY},
        excluded_checks=[ACCEPTS_ALL_THAT_IS_VALID],
    )
    if answer.status_code >= 400 and case.meta.generation.mode.is_positive:
        error = answer.json()["error"]
        allowed = error["code"] in BEYOND_ANY_SCHEMA or is_for_a_fraction(error)
        assert allowed or "cannot convert speech" in error["message"], error


def is_for_a_fraction(error: dict[str, Any]) -> bool:
    """Return whether the error is about 5.0, an integer in JSON Schema but not here."""
    return error["message"].endswith("must be a whole number.")


def test_the_service_documents_this_schema(service: Service) -> None:
    with service.client() as client:
        assert client.get("/openapi.json").json() == SCHEMA
