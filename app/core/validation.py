"""What pydantic finds wrong with a value, in plain words. Used for requests and for settings."""

from collections.abc import Mapping
from typing import Any

_WORDS = {
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


def describe_error(detail: Mapping[str, Any]) -> str:
    """What follows the name of the value: "must be at least 0". `detail`: one of pydantic's."""
    words = _WORDS.get(detail["type"])
    if words is None:
        return str(detail["msg"])
    return words.format(**{name: _shown(value) for name, value in detail.get("ctx", {}).items()})


def _shown(value: Any) -> str:
    return f"{value:.10g}" if isinstance(value, float) else str(value)
