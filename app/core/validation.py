"""Plain descriptions of pydantic's validation errors, for requests and settings."""

from collections.abc import Mapping
from typing import Any

_MESSAGES = {
    "missing": "is missing",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "finite_number": "must be a number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a smaller number",
    "int_type": "must be a whole number",
    "string_type": "must be text",
    "string_unicode": "must be text",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
}


MAX_QUOTED = 128


def shortened(text: str) -> str:
    """A name from a client, short enough for a message."""
    return text if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]}…"


def describe_error(detail: Mapping[str, Any]) -> str:
    """The part of a sentence after the value's name, as "must be at least 0".

    `detail` is one of the dictionaries that `ValidationError.errors()` returns.
    """
    message = _MESSAGES.get(detail["type"])
    if message is None:
        return str(detail["msg"])
    context = detail.get("ctx", {})
    return message.format(**{name: _formatted(value) for name, value in context.items()})


def _formatted(value: Any) -> str:
    return f"{value:.10g}" if isinstance(value, float) else str(value)
