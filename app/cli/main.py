"""The command line: `chatterbox-tts serve | speak | voices | models | bench`."""

import sys
from typing import Annotated

import typer

from app import __version__
from app.cli.bench import bench
from app.cli.models import models
from app.cli.serve import serve
from app.cli.synthesize import speak
from app.cli.voices import voices
from app.core.errors import ServiceError, StartupError

cli = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
cli.command()(serve)
cli.command()(speak)
cli.add_typer(voices, name="voices")
cli.add_typer(models, name="models")
cli.add_typer(bench, name="bench")


def main() -> None:
    """Run a command; an expected error is one line on standard error and a non-zero exit."""
    try:
        cli()
    except (StartupError, ServiceError) as error:
        print(f"chatterbox-tts: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(2 if isinstance(error, StartupError) else 1)
    except KeyboardInterrupt:
        print("chatterbox-tts: stopped", file=sys.stderr)  # noqa: T201
        sys.exit(130)


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"chatterbox-tts {__version__}")
        raise typer.Exit


@cli.callback()
def service(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Speech in any cloned voice, streamed while it is being generated."""
