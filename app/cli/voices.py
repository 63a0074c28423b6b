"""`chatterbox-tts voices`."""

import os

import typer
from rich.console import Console
from rich.table import Table

from app.core.errors import InvalidRequest, StartupError
from app.settings import load_settings


def list_voices() -> None:
    """List the voices, and which folder each is in."""
    settings = load_settings(api_key_required=False)
    table = Table("voice_id", "folder", "size")
    from app.voices.folder import VoiceFolder
    from app.voices.names import validate_voice_id

    looked_in = []
    for folder in map(VoiceFolder, (settings.voices_dir, settings.preloaded_voices_dir)):
        try:
            files = [(path, os.path.getsize(path)) for path in sorted(folder.files())]
        except OSError as error:
            raise StartupError(f"cannot read {folder.path}: {error.strerror}") from None
        problem = folder.problem(written=False)
        looked_in.append(f"{folder.path.absolute()}{problem and f' ({problem})'}")
        for path, size in files:
            name = os.path.basename(path)
            try:
                validate_voice_id(name)
            except InvalidRequest:
                continue
            table.add_row(name, str(folder.path), f"{size:,} B")
    Console().print(table)
    typer.echo(f"looked in {' and '.join(looked_in)}")
