"""Terminal and file output that several commands share."""

from pathlib import Path
from typing import BinaryIO, TextIO

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from app.cli.terms import in_options
from app.core.errors import StartupError


def progress_bar(*, quiet: bool = False) -> Progress:
    """On standard error, if that is a terminal."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f}%"),
        console=console,
        disable=quiet or not console.is_terminal,
    )


def is_terminal(stream: TextIO | None) -> bool:
    """Whether it is one; Python has None for a standard stream that is closed."""
    return stream is not None and stream.isatty()


def open_for_writing(path: Path) -> BinaryIO:
    try:
        return path.open("wb")
    except OSError as error:
        raise StartupError(f"cannot write {path.parent}: {error.strerror}") from None


def note(message: str) -> None:
    """Print a line for the user on standard error."""
    typer.echo(f"chatterbox-tts: {in_options(message)}", err=True)
