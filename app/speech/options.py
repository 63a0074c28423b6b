"""The options of speech that every protocol's request model shares, and their validation."""

import difflib
import json
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, create_model

from app.core.errors import InvalidRequest
from app.core.params import PARAMETERS, Speed, SynthesisParams, info_of
from app.core.validation import describe_error, shortened

M = TypeVar("M", bound=BaseModel)

_MAX_SUGGESTION_LENGTH = 64  # looking for a similar name takes longer for longer ones


def lower(value: Any) -> Any:
    """Text in lower case, any other value as it is: a validator for names of formats."""
    return value.lower() if isinstance(value, str) else value


def _option(name: str) -> Any:
    aliases = info_of(name).aliases
    field = Field(
        None,
        validation_alias=AliasChoices(name, *aliases) if aliases else None,
        description=info_of(name).description,
    )
    return Annotated[PARAMETERS[name] | None, field]


if TYPE_CHECKING:
    _Parameters = BaseModel
else:
    _Parameters = create_model(
        "_Parameters",
        __config__=ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True),
        **{name: (_option(name), None) for name in PARAMETERS},
    )


class SpeechOptions(_Parameters):
    """All of `SynthesisParams`, each optional: those that are absent come from the settings."""

    speed: Annotated[Speed, Field(1.0, description=info_of("speed").description)]
    stream: Annotated[
        bool, Field(True, description="False: the whole file at once, with its true size.")
    ]

    def params(self, defaults: SynthesisParams) -> SynthesisParams:
        """`defaults`, replaced by the parameters that are present."""
        values = {name: getattr(self, name) for name in PARAMETERS}
        present = {name: value for name, value in values.items() if value is not None}
        return msgspec.structs.replace(defaults, **present)


def json_schema_of(model: type[SpeechOptions]) -> dict[str, Any]:
    """The schema for the documentation, in which the model's own fields come first."""
    schema = model.model_json_schema(by_alias=False)
    properties = schema["properties"]
    own = {name: properties[name] for name in properties if name in model.__annotations__}
    return schema | {"properties": own | properties}


def validated(model: type[M], values: dict[str, Any]) -> M:
    """Strict: no strings or booleans for numbers. Raises `InvalidRequest` naming the parameter."""
    try:
        return model.model_validate(values, strict=True)
    except ValidationError as error:
        raise _invalid_request(model, error) from None


def query_value(name: str, value: str) -> Any:
    """The value of an option in a query, where numbers and booleans are written as in JSON."""
    if name in _TEXT_OPTIONS:
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value  # neither number nor boolean: validation rejects it by name


_NAME_OF_ALIAS = {alias: name for name in PARAMETERS for alias in info_of(name).aliases}

_TEXT_OPTIONS = {
    option
    for name in PARAMETERS
    if isinstance(getattr(SynthesisParams(), name), str)
    for option in (name, *info_of(name).aliases)
}


def _invalid_request(model: type[BaseModel], error: ValidationError) -> InvalidRequest:
    errors = error.errors(include_url=False, include_input=False)
    unknown = (each for each in errors if each["type"] == "extra_forbidden")
    first = next(unknown, errors[0])  # a name that is misspelt is missing, too
    if not first["loc"]:
        return InvalidRequest("The name of each parameter must be text.")
    param = shortened(str(first["loc"][0]))
    if first["type"] != "extra_forbidden":
        message = f"{param!r} {describe_error(first)}."
    elif name := _NAME_OF_ALIAS.get(param):
        message = f"{param!r} is another name of {name!r}, given twice."
    else:
        message = f"There is no parameter {param!r}.{_suggestion(model, param)}"
    return InvalidRequest(message, param=param)


def _suggestion(model: type[BaseModel], param: str) -> str:
    known = [*model.model_fields, *_NAME_OF_ALIAS]
    near = difflib.get_close_matches(param[:_MAX_SUGGESTION_LENGTH].lower(), known, n=1)
    return f" Is {near[0]!r} meant?" if near else ""
