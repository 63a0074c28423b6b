"""The OpenAPI documentation agrees with requests and responses."""

import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from app.core.errors import HeadersTooLong, MethodNotAllowed, NotFound, RequestTooSlow, ServiceError
from app.http.openapi import ERROR_EXAMPLES
from app.protocols.native import documentation as native
from app.protocols.native.schemas import from_json
from app.protocols.openai import documentation as openai
from app.protocols.openai.schemas import from_openai_json
from tests.fuzz.test_api import SCHEMA
from tests.support.manual import section

GENERAL_ERRORS = {HeadersTooLong, MethodNotAllowed, NotFound, RequestTooSlow}
"""Not documented per route: raised before routing, or for any body."""

OPERATIONS = {
    f"{method.upper()} {path}": operation
    for path, operations in SCHEMA["paths"].items()
    for method, operation in operations.items()
}
each_operation = pytest.mark.parametrize("operation", OPERATIONS)


def kinds(root: type[ServiceError] = ServiceError) -> Iterator[type[ServiceError]]:
    for child in root.__subclasses__():
        yield from (child, *kinds(child))


def examples_of(response: dict[str, Any]) -> dict[str, Any]:
    """Return the examples of an error response, by code."""
    shown = response["content"]["application/json"]["examples"]
    return {code: example["value"] for code, example in shown.items()}


def test_every_error_class_has_an_example() -> None:
    with_a_code = {kind for kind in kinds() if "code" in vars(kind)}
    assert with_a_code - GENERAL_ERRORS == ERROR_EXAMPLES.keys()


@each_operation
def test_documented_errors_match_responses(operation: str) -> None:
    statuses = {code: kind.status for kind in kinds() if (code := vars(kind).get("code"))}
    for status, response in OPERATIONS[operation]["responses"].items():
        if not status.startswith(("4", "5")):
            continue
        for code, body in examples_of(response).items():
            assert statuses[code] == int(status)
            assert f"`{code}`" in response["description"]
            assert body["error"]["code"] == code
        assert ("Retry-After" in response["headers"]) == (status in ("429", "503", "507"))
        assert "X-Should-Retry" in response["headers"]


@each_operation
def test_json_examples_follow_their_schemas(operation: str) -> None:
    described = OPERATIONS[operation]
    for message in [described.get("requestBody", {}), *described["responses"].values()]:
        if media := message.get("content", {}).get("application/json"):
            shown = [example["value"] for example in media.get("examples", {}).values()]
            shown += [media["example"]] if "example" in media else []
            assert shown
            for example in shown:
                jsonschema.validate(example, media["schema"] | {"components": SCHEMA["components"]})


def test_request_examples_are_accepted() -> None:
    for values in native.REQUEST_EXAMPLES.values():
        assert from_json(values).text
    for values in openai.REQUEST_EXAMPLES.values():
        assert from_openai_json(values).input


def test_parameters_are_named_as_each_route_names_them() -> None:
    own, openais = OPERATIONS["POST /tts/generate"], OPERATIONS["POST /v1/audio/speech"]
    for operation, voice, text in ((own, "voice_id", "text"), (openais, "voice", "input")):
        responses = operation["responses"]
        assert examples_of(responses["404"])["voice_not_found"]["error"]["param"] == voice
        assert examples_of(responses["400"])["empty_text"]["error"]["param"] == text


def test_the_manual_lists_every_code() -> None:
    listed = set(re.findall(r"`([a-z_]+)`", section("api.md", "Errors")))
    assert {kind.code for kind in kinds() if "code" in vars(kind)} <= listed
