"""Options that several commands share, and one option for each synthesis parameter."""

import inspect
from collections.abc import Callable
from typing import Annotated, Any, Literal, get_origin

import typer
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from app.core.params import ALL_PARAMETERS, info_of
from app.core.validation import describe_error

ModelOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="As in MODEL, which is the default: turbo, for one."),
]
LanguageOption = Annotated[
    str | None,
    typer.Option(metavar="CODE", help="Of the text, such as de; by default DEFAULT_LANGUAGE."),
]
ServerOption = Annotated[
    str | None,
    typer.Option(metavar="URL", help="A running service, which API_KEY is the key of."),
]

_PANEL = "Synthesis parameters"


def with_parameters(command: Callable[..., None]) -> Callable[..., None]:
    """Add an option for each synthesis parameter but `language`.

    `command` gets those that were set as `parameters`, a dictionary by name.
    """

    def run(**values: Any) -> None:
        names = [name for name in ALL_PARAMETERS if name != "language"]
        chosen = {name: values.pop(name) for name in names}
        present = {name: value for name, value in chosen.items() if value is not None}
        command(**values, parameters=present)

    own = inspect.signature(command).parameters.values()
    parameters = [each for each in own if each.name != "parameters"]
    parameters += [_option(name) for name in ALL_PARAMETERS if name != "language"]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return run


def _option(name: str) -> inspect.Parameter:
    annotation, info = ALL_PARAMETERS[name], info_of(name)
    names = [f"--{each.replace('_', '-')}" for each in (name, *info.aliases)]
    option = typer.Option(
        *names,
        help=f"{info.description.replace('`', '')}{_range(annotation)}",
        callback=_validator(annotation),
        rich_help_panel=_PANEL,
        metavar=_METAVARS.get(_base(annotation), "NAME"),
        show_default=False,
    )
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[_base(annotation) | None, option],
    )


_METAVARS = {float: "NUMBER", int: "NUMBER"}


def _base(annotation: Any) -> Any:
    """The type of a parameter's values on a command line."""
    base = annotation.__origin__
    return str if get_origin(base) is Literal else base


def _range(annotation: Any) -> str:
    fields = [each for each in annotation.__metadata__ if isinstance(each, FieldInfo)]
    bounds = {
        kind: getattr(bound, kind)
        for field in fields
        for bound in field.metadata
        for kind in ("ge", "gt", "le")
        if hasattr(bound, kind)
    }
    if not bounds:
        return ""
    low = f"above {bounds['gt']:g}" if "gt" in bounds else f"{bounds['ge']:g}"
    return f" ({low} to {bounds['le']:.10g})"


def _validator(annotation: Any) -> Callable[[Any], Any]:
    def validated(value: Any) -> Any:
        if value is None:
            return None
        try:
            return TypeAdapter(annotation).validate_python(value)
        except ValidationError as error:
            raise typer.BadParameter(describe_error(error.errors()[0])) from None

    return validated
