"""`chatterbox-tts voices`."""

import typer
from rich.console import Console
from rich.table import Table

from app.core.errors import InvalidRequest, StartupError
from app.settings import load_settings

voices = typer.Typer(help="The voices in the voice folders.", invoke_without_command=True)


@voices.callback()
def list_voices(context: typer.Context) -> None:
    """List the voices, and which folder each is in."""
    if context.invoked_subcommand:
        return
    settings = load_settings(api_key_required=False)
    table = Table("voice_id", "folder", "size")
    from app.voices.folder import VoiceFolder, checked_voice_id

    looked_in = []
    for folder in map(VoiceFolder, (settings.voices_dir, settings.preloaded_voices_dir)):
        try:
            files = sorted(folder.files().items())
        except OSError as error:
            raise StartupError(f"cannot read {folder.path}: {error.strerror}") from None
        trouble = folder.trouble(written=False)
        looked_in.append(f"{folder.path.absolute()}{trouble and f' ({trouble})'}")
        for path, signature in files:
            try:
                checked_voice_id(path.name)
            except InvalidRequest:
                continue
            table.add_row(path.name, str(folder.path), f"{signature.size:,} B")
    Console().print(table)
    typer.echo(f"looked in {' and '.join(looked_in)}")
