"""The text of a command: an argument, a file, or standard input."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from app.cli.console import is_terminal
from app.core.errors import InvalidRequest, StartupError

TextArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[TEXT]", help="What to say. Without it, or with -, standard input is read."
    ),
]
TextFile = Annotated[
    Path | None, typer.Option("--file", "-f", metavar="FILE", help="Read the text from a file.")
]


def read_text(text: str | None, file: Path | None) -> str:
    """Return the text. Raises `StartupError` if there is none, or more than one."""
    if file is not None:
        if text is not None:
            raise StartupError("give either a text or -f FILE, not both")
        try:
            return _decoded(file.read_bytes(), str(file))
        except OSError as error:
            raise StartupError(f"cannot read {file}: {error.strerror}") from None
    if (sys.stdin is None and text in (None, "-")) or (text is None and is_terminal(sys.stdin)):
        raise StartupError("no text: write it after the command, in quotes, or use -f FILE")
    if text is None or text == "-":
        return _decoded(sys.stdin.buffer.read(), "standard input")
    return text


def _decoded(content: bytes, source: str) -> str:
    """Decode UTF-8, or UTF-16 that says so. Raises `InvalidRequest`."""
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"{source} is not UTF-8 text (byte {error.start + 1} is no part of it): save it as "
            "UTF-8, or convert it with iconv"
        ) from None
