"""Speech by a running service."""

from typing import TYPE_CHECKING, Any

from app.cli.console import note
from app.cli.output import Output
from app.cli.voice_files import has_voice_file
from app.core.errors import ModelNotFound, Unauthenticated, VoiceNotFound
from app.settings import Settings

if TYPE_CHECKING:
    from app.cli.server_client import Server

STREAM_BYTES = 4096


def speak_by_server(
    settings: Settings, url: str | None, request: dict[str, Any], out: Output, *, quiet: bool
) -> str | None:
    """Give a service's speech to `out`; returns its name, or None if this process has to speak.

    Without `url` it is the service that the settings name. Raises `ServiceError` for a service that
    was asked for by its URL.
    """
    from app.cli.server_client import local_server, server_at  # imports httpx

    if url is not None:
        with server_at(url, settings) as server:
            return _speak(server, request, out, quiet=quiet)
    with local_server(settings) as server:
        health = server.health()
        if health is None:
            return None
        try:
            if health["status"] == "ready":
                return _speak(server, request, out, quiet=quiet)
            reason = f"is {health['status']}"
        except Unauthenticated:
            reason = (
                "has another API_KEY" if settings.key else "needs API_KEY, which is not set here"
            )
        except VoiceNotFound:
            if not has_voice_file(settings, request["voice_id"]):
                raise
            reason = "has no such voice"
        except ModelNotFound:
            reason = "has no such model"
    if not quiet:
        note(f"the server at {server.url} {reason}; loading a model instead")
    return None


def _speak(server: "Server", request: dict[str, Any], out: Output, *, quiet: bool) -> str:
    out.start()
    with server.speech({**request, "format": "raw_pcm"}) as response:
        if (notice := response.headers.get("X-TTS-Notice")) and not quiet:
            note(notice)
        for pcm in response.iter_bytes(STREAM_BYTES):
            out.write(pcm)
        model = response.headers.get("X-TTS-Model", "default")
    return f"{model} model of the server at {server.url}"
