"""`chatterbox-tts serve`: the service."""

import asyncio
import logging
from typing import Annotated

import typer

from app.core.log import set_up_logging
from app.core.native import hide_memory
from app.core.process_env import visible_cuda_devices
from app.settings import load_settings, unexpanded_settings, unknown_settings, weak_key

log = logging.getLogger(__name__)

EXAMPLES = """\b
Examples:
  chatterbox-tts serve
  chatterbox-tts serve --host 127.0.0.1 --port 8010
"""


def serve(
    host: Annotated[
        str | None, typer.Option(help="The address to listen on; by default HOST.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65_535, help="The port; by default PORT.")
    ] = None,
) -> None:
    """Start the service; its other settings come from the environment and .env."""
    hide_memory()  # which holds the key
    from app.core.devices import detect
    from app.engines.selection import choose_models
    from app.server.main import serve as serve_http

    options = {"host": host, "port": port}
    chosen = {name: value for name, value in options.items() if value is not None}
    settings = load_settings(api_key_required=True, **chosen)
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
