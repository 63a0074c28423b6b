"""`chatterbox-tts serve`."""

import asyncio
import logging

from app.core.log import set_up_logging
from app.settings import load_settings, unknown_names

log = logging.getLogger(__name__)


def serve() -> None:
    """Start the service; all its settings come from the environment and `.env`."""
    from app.engines.registry import choose_engine
    from app.server.main import serve as serve_http

    settings = load_settings(api_key_required=True)
    set_up_logging(settings.effective_log_level, "master")
    for warning in unknown_names():
        log.warning("%s", warning)
    asyncio.run(serve_http(settings, choose_engine(settings.model, settings.model_path)))
