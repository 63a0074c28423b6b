"""The command line: `chatterbox-tts serve | speak | text | voices | …`."""

import errno
import sys
from contextlib import suppress
from typing import Annotated

import typer

from app import __version__
from app.cli import serve, speak, text
from app.cli.bench import bench
from app.cli.completion import Shell, completion_script
from app.cli.console import note
from app.cli.models import models
from app.cli.voices import voices
from app.core.errors import (
    DownloadFailed,
    InvalidRequest,
    NotFound,
    ServiceError,
    StartupError,
    Unauthenticated,
)

USER_MISTAKES = (StartupError, InvalidRequest, NotFound, Unauthenticated)
"""Errors that end a command with 2, as wrong options do; others end it with 1."""

NO_MISTAKES = (DownloadFailed,)
"""Errors of these kinds that end it with 1."""

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)

EXAMPLES = """\b
Examples:
  chatterbox-tts serve --port 8000
  chatterbox-tts speak "Good morning." --play
  chatterbox-tts voices add recording.wav --name anna
  chatterbox-tts COMMAND --help
"""

COMPLETION_EXAMPLES = """\b
In ~/.bashrc:
  source <(chatterbox-tts completion bash)
In ~/.zshrc:
  source <(chatterbox-tts completion zsh)
For fish, once:
  chatterbox-tts completion fish > ~/.config/fish/completions/chatterbox-tts.fish
"""

cli = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    epilog=EXAMPLES,
)

cli.command(epilog=serve.EXAMPLES, short_help="Start the service.")(serve.serve)
cli.command(epilog=speak.EXAMPLES, short_help="Say a text into a file or aloud.")(speak.speak)
cli.command("text", epilog=text.EXAMPLES, short_help="Show what is spoken of a text.")(
    text.show_text
)
cli.add_typer(voices, name="voices", short_help="List, add, rename and remove voices.")
cli.add_typer(models, name="models", short_help="List and download models.")
cli.add_typer(bench, name="bench")


@cli.command(epilog=COMPLETION_EXAMPLES, short_help="Print a script for the Tab key.")
def completion(
    shell: Annotated[Shell, typer.Argument(help="The shell that is to complete commands.")],
) -> None:
    """Print a script that completes commands and options with the Tab key."""
    typer.echo(completion_script(typer.main.get_command(cli), shell))


def main() -> None:
    """Run a command; an expected error is one line on standard error and a non-zero exit."""
    try:
        cli()
    except (StartupError, ServiceError) as error:
        note(str(error))
        _give_up_output()
        is_mistake = isinstance(error, USER_MISTAKES) and not isinstance(error, NO_MISTAKES)
        sys.exit(2 if is_mistake else 1)
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        note(f"cannot write the output: {error.strerror}")
        _give_up_output()
        sys.exit(1)


def _give_up_output() -> None:
    """Close standard output if it takes no more, before Python tries that with a complaint."""
    try:
        if sys.stdout:
            sys.stdout.flush()
    except OSError:
        with suppress(OSError):
            sys.stdout.close()


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
