"""`chatterbox-tts models`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from app.core.errors import StartupError
from app.engines.chatterbox.variants import spec_of
from app.engines.selection import NAME_OF_ID
from app.model_files.manifest import MANIFESTS, Manifest, damaged, folder_of, inventory
from app.settings import Settings, load_settings

models = typer.Typer(
    help="The Chatterbox models in MODEL_PATH.",
    invoke_without_command=True,
    rich_markup_mode=None,
)


@models.callback()
def show_models(
    context: typer.Context,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare the files' checksums, not only their sizes.")
    ] = False,
) -> None:
    """Show which models are there, and which of their files are missing or damaged."""
    if context.invoked_subcommand:
        return
    settings = load_settings(api_key_required=False)
    manifests = {name: _manifest(name, settings) for name in MANIFESTS}
    table = Table("model", "state", "size", "folder", title=f"models in {settings.model_path}")
    for name, manifest in manifests.items():
        folder = folder_of(settings.model_path, name)
        sizes = inventory(folder, manifest)
        bad = damaged(folder, manifest, thorough=verify)
        size = sum(size or 0 for size in sizes.values())
        table.add_row(name, _state(sizes, bad), f"{size:,}", str(folder))
        if size and (None in sizes.values() or bad):
            for file, size_ in sizes.items():
                table.add_row("", file, _file_state(size_, file in bad), "")
    console = Console()
    console.print(table)
    console.print("fetch what is missing: chatterbox-tts models download [MODEL]…", markup=False)


def _state(sizes: dict[str, int | None], bad: list[str]) -> str:
    if bad:
        return "damaged files"
    if None not in sizes.values():
        return "complete"
    return "missing files" if any(sizes.values()) else "not there"


def _file_state(size: int | None, bad: bool) -> str:
    if size is None:
        return "missing"
    return f"{size:,} (not the published file)" if bad else f"{size:,}"


@models.command()
def download(
    names: Annotated[
        list[str] | None,
        typer.Argument(help=f"Of {', '.join(MANIFESTS)}; without any, chatterbox."),
    ] = None,
) -> None:
    """Fetch the weights of models from the Hugging Face hub into MODEL_PATH."""
    settings = load_settings(api_key_required=False)
    wanted = [NAME_OF_ID.get(name, name) for name in names or ["chatterbox"]]
    if unknown := [name for name in wanted if name not in MANIFESTS]:
        raise StartupError(f"no model {unknown[0]!r}: give some of {', '.join(MANIFESTS)}")
    for name in dict.fromkeys(wanted):
        _download(folder_of(settings.model_path, name), _manifest(name, settings))


def _download(folder: Path, manifest: Manifest) -> None:
    from app.model_files.download import download as download_files  # imports httpx

    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    )
    bar.console.print(f"{manifest.title} into {folder}")
    with bar:
        tasks: dict[str, TaskID] = {}

        def show(name: str, done: int, size: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name)
            bar.update(tasks[name], completed=done, total=size)

        download_files(folder, show, manifest=manifest)


def _manifest(name: str, settings: Settings) -> Manifest:
    return spec_of(name, settings.model_files(name)).manifest
