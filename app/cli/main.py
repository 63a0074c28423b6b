"""The command line: `chatterbox-tts serve | speak | text | voices | models | bench`."""

import asyncio
import logging
import sys
from typing import Annotated

import typer

from app import __version__
from app.cli.bench import bench
from app.cli.models import models
from app.cli.synthesize import speak
from app.cli.text import show_text
from app.cli.voices import list_voices
from app.core.errors import ServiceError, StartupError
from app.core.log import set_up_logging
from app.core.native import hide_memory
from app.core.process_env import visible_cuda_devices
from app.settings import load_settings, unexpanded_settings, unknown_settings, weak_key

log = logging.getLogger(__name__)

cli = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


@cli.command()
def serve() -> None:
    """Start the service; all its settings come from the environment and `.env`."""
    hide_memory()  # which holds the key
    from app.core.devices import detect
    from app.engines.selection import choose_models
    from app.server.main import serve as serve_http

    settings = load_settings(api_key_required=True)
    set_up_logging(settings.effective_log_level, "master")
    for warning in [*unknown_settings(), *unexpanded_settings()]:
        log.warning("%s", warning)
    models = choose_models(
        settings.model,
        settings.model_path,
        detect(visible_cuda_devices())[0].kind if settings.model == "auto" else "cpu",
        settings.model_files,
    )
    for warning in weak_key(settings):
        log.warning("%s", warning)
    asyncio.run(serve_http(settings, models))


cli.command()(speak)
cli.command("text")(show_text)
cli.command("voices")(list_voices)
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
