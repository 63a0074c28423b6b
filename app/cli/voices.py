"""`chatterbox-tts voices`: list, add, rename and remove voices, here or on a running service."""

import asyncio
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.console import is_terminal
from app.cli.options import ServerOption
from app.cli.voice_files import VoiceFile, find_voice, folders, suggestion, voice_files
from app.core.errors import PreloadedVoice, StartupError, VoiceExists
from app.settings import Settings, load_settings

if TYPE_CHECKING:
    from app.cli.server_client import Server
    from app.voices.library import VoiceLibrary

EXAMPLES = """\b
Examples:
  chatterbox-tts voices
  chatterbox-tts voices add recording.m4a --name anna
  chatterbox-tts voices rename anna Anna
  chatterbox-tts voices rm Anna
  chatterbox-tts voices list --json | jq -r '.[].voice_id'
"""

voices = typer.Typer(
    rich_markup_mode=None,
    help="List, add, rename and remove voices: in VOICES_DIR, or with --server on a service.",
    epilog=EXAMPLES,
    invoke_without_command=True,
)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@voices.callback()
def show_voices(context: typer.Context, as_json: JsonOption = False) -> None:
    """List, add, rename and remove voices: in VOICES_DIR, or with --server on a service."""
    if not context.invoked_subcommand:
        list_voices(as_json=as_json)


@voices.command("list")
def list_voices(as_json: JsonOption = False, server: ServerOption = None) -> None:
    """List the voices. In a pipe: a line for each, with tabs between name, folder and bytes."""
    settings = load_settings(api_key_required=False)
    if server is not None:
        with _server(server, settings) as service:
            uploaded = set(service.voices(preloaded="false"))
            names = service.voices()
        rows = [{"voice_id": name, "preloaded": name not in uploaded} for name in names]
        _print(rows, as_json=as_json)
        return
    rows = [_row(file) for file in voice_files(settings)]
    _print(rows, as_json=as_json)
    if not as_json:
        typer.echo(f"looked in {' and '.join(folders(settings))}", err=True)


@voices.command()
def add(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A recording of one speaker, 1 s to 5 min long.")
    ],
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Its name; by default that of the file.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace a voice that has the name.")
    ] = False,
    server: ServerOption = None,
) -> None:
    """Add a voice. A running service that uses the folder notices it within seconds."""
    from app.voices.names import validate_voice_id, with_ending

    settings = load_settings(api_key_required=False)
    voice_id = validate_voice_id(with_ending(name, file.name) if name else file.name)
    try:
        with file.open("rb") as content:
            if server is not None:
                with _server(server, settings) as service:
                    voice_id = service.add_voice(voice_id, content.read(), replace=replace)
            else:
                with _library(settings) as library:
                    asyncio.run(library.add(voice_id, content, replace=replace))
    except VoiceExists:
        raise VoiceExists(f"there is a voice {voice_id} already; --replace replaces it") from None
    except OSError as error:
        raise StartupError(f"cannot read {file}: {error.strerror}") from None
    typer.echo(f"added {voice_id}")


@voices.command()
def rename(
    voice: Annotated[str, typer.Argument(metavar="VOICE", help="The voice.")],
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Its new name; the ending may be left out.")
    ],
    server: ServerOption = None,
) -> None:
    """Rename a voice."""
    from app.voices.folder import VoiceFolder
    from app.voices.names import renamed

    settings = load_settings(api_key_required=False)
    if server is not None:
        with _server(server, settings) as service:
            typer.echo(f"renamed to {service.rename_voice(voice, name)}")
        return
    found = _uploaded(settings, voice, "renamed")
    new_id = renamed(found.voice_id, name)
    with _folder_errors(settings):
        VoiceFolder(settings.voices_dir).rename(found.voice_id, new_id)
    typer.echo(f"renamed to {new_id}")


@voices.command("rm")
def remove(
    names: Annotated[
        list[str], typer.Argument(metavar="VOICE...", help="Their names; endings may be left out.")
    ],
    server: ServerOption = None,
) -> None:
    """Remove voices that were added."""
    from app.voices.folder import VoiceFolder

    settings = load_settings(api_key_required=False)
    with ExitStack() as stack:
        service = stack.enter_context(_server(server, settings)) if server is not None else None
        for name in names:
            if service:
                name = service.delete_voice(name)
            else:
                name = _uploaded(settings, name, "removed").voice_id
                with _folder_errors(settings):
                    VoiceFolder(settings.voices_dir).remove(name)
            typer.echo(f"removed {name}")


def _server(url: str, settings: Settings) -> "Server":
    from app.cli.server_client import server_at  # imports httpx

    return server_at(url, settings)


def _row(file: VoiceFile) -> dict[str, Any]:
    return {
        "voice_id": file.voice_id,
        "preloaded": file.preloaded,
        "folder": str(file.path.parent),
        "bytes": file.size,
    }


def _print(rows: list[dict[str, Any]], *, as_json: bool) -> None:
    """Print JSON, columns in a terminal, or lines with tabs; no name is cut."""
    if as_json:
        typer.echo(json.dumps(rows, ensure_ascii=False, indent=2))
    elif not is_terminal(sys.stdout):
        columns = ("voice_id", "folder", "bytes")
        for row in rows:
            typer.echo("\t".join(str(row[name]) for name in columns if name in row))
    elif rows:
        lines = [list(rows[0]), *(list(map(_shown, row.values())) for row in rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for line in lines:
            cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
            typer.echo("  ".join(cells).rstrip())


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _uploaded(settings: Settings, name: str, change: str) -> VoiceFile:
    found = find_voice(settings, name)
    if found is None:
        raise StartupError(f"no voice {name} in {settings.voices_dir}{suggestion(settings, name)}")
    if found.preloaded:
        raise PreloadedVoice(f"{found.path} is a preloaded voice and cannot be {change} here")
    return found


@contextmanager
def _library(settings: Settings) -> "Iterator[VoiceLibrary]":
    from app.voices.library import VoiceLibrary

    with tempfile.TemporaryDirectory() as decoded:
        library = VoiceLibrary(
            settings.voices_dir,
            settings.preloaded_voices_dir,
            Path(decoded),
            settings.max_upload_bytes,
        )
        try:
            yield library
        finally:
            library.close()


@contextmanager
def _folder_errors(settings: Settings) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StartupError(f"cannot change {settings.voices_dir}: {error.strerror}") from None
