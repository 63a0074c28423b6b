"""Helpers for the OpenAPI documentation: error responses, examples, security schemes."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from app.core.errors import ServiceError, error_types
from app.http.error_handlers import ErrorBody, error_body, with_param_names

Responses = dict[int | str, dict[str, Any]]
"""The `responses` of a route, a router or the app."""

SECURITY_SCHEMES = {
    "Header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "Bearer": {"type": "http", "scheme": "bearer"},
    "Query": {"type": "apiKey", "in": "query", "name": "api_key"},
}
"""Alternatives; `ApiKeyMiddleware` checks them."""

_ERROR_HEADERS: dict[str, Any] = {
    "X-Should-Retry": {
        "description": "Whether a retry may succeed.",
        "schema": {"type": "string", "enum": ["true", "false"]},
    },
    "Retry-After": {
        "description": "Seconds to wait before a retry.",
        "schema": {"type": "integer"},
    },
}

ERROR_EXAMPLES: dict[type[ServiceError], ServiceError] = {
    kind: kind.as_example()
    for kind in error_types()
    if "example" in vars(kind) and kind is not ServiceError
}
"""One error of each class that the documentation mentions."""


def error_responses(
    *classes: type[ServiceError], names: Mapping[str, str] = MappingProxyType({})
) -> Responses:
    """Return the error responses of a route, by status, with an example of each code.

    `names`: this route's names of parameters.
    """
    by_status: dict[int | str, list[ServiceError]] = {}
    for each in classes:
        error = with_param_names(ERROR_EXAMPLES[each], names)
        by_status.setdefault(each.status, []).append(error)
    return {status: _example(errors) for status, errors in by_status.items()}


def json_response(example: Any, status: int = 200) -> Responses:
    return {status: {"content": {"application/json": {"example": example}}}}


def request_body(media_type: str, schema: dict[str, Any], **examples: Any) -> dict[str, Any]:
    """Describe a required body that a route parses itself, with named examples."""
    media = {"schema": schema}
    if examples:
        media["examples"] = {name: {"value": value} for name, value in examples.items()}
    return {"required": True, "content": {media_type: media}}


def restore_nulls(schema: dict[str, Any]) -> None:
    """Put `"param": null` back into examples of errors: FastAPI drops null from examples."""
    for operations in schema["paths"].values():
        for operation in operations.values():
            for response in operation["responses"].values():
                media = response.get("content", {}).get("application/json", {})
                for example in media.get("examples", {}).values():
                    example["value"]["error"].setdefault("param", None)


def _example(errors: list[ServiceError]) -> dict[str, Any]:
    headers = ["X-Should-Retry"]
    if any(error.retry_after_s is not None for error in errors):
        headers.append("Retry-After")
    examples = {error.code: {"value": error_body(error)} for error in errors}
    return {
        "description": " or ".join(f"`{code}`" for code in examples),
        "model": ErrorBody,
        "headers": {name: _ERROR_HEADERS[name] for name in headers},
        "content": {"application/json": {"examples": examples}},
    }


DEFAULT_RESPONSE: Responses = {
    "default": {**_example([ServiceError.as_example()]), "description": "Any other error."}
}
