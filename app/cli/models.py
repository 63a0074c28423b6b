"""`chatterbox-tts models`."""

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from app.model_files import manifest
from app.settings import load_settings

models = typer.Typer(help="The Chatterbox model in MODEL_PATH.", invoke_without_command=True)


@models.callback()
def show_models(context: typer.Context) -> None:
    """Show which files of the model are there."""
    if context.invoked_subcommand:
        return
    settings = load_settings(api_key_required=False)
    table = Table("file", "size", title=f"{manifest.ENGLISH.repository} in {settings.model_path}")
    for name, size in manifest.inventory(settings.model_path).items():
        table.add_row(name, "missing" if size is None else f"{size:,}")
    Console().print(table)
    if manifest.missing(settings.model_path):
        Console().print("fetch what is missing: chatterbox-tts models download")


@models.command()
def download() -> None:
    """Fetch the weights from the Hugging Face hub into MODEL_PATH."""
    from app.model_files.download import download as download_files  # imports httpx

    settings = load_settings(api_key_required=False)
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    )
    with bar:
        tasks = {name: bar.add_task(name, total=None) for name in manifest.ENGLISH.files}
        download_files(
            settings.model_path,
            lambda name, done, total: bar.update(tasks[name], completed=done, total=total),
        )
