"""`chatterbox-tts speak`: speech by a running service, or by a model that is loaded for it."""

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.console import note
from app.cli.local_speech import speak_here
from app.cli.options import LanguageOption, ModelOption, ServerOption, with_parameters
from app.cli.output import Output, format_for, opened
from app.cli.player import find_player
from app.cli.text_input import TextArgument, TextFile, read_text
from app.cli.voice_files import has_voice_file
from app.core.errors import ModelNotFound, Unauthenticated, VoiceNotFound
from app.core.log import set_up_logging
from app.settings import Settings, load_settings

if TYPE_CHECKING:
    from app.cli.server_client import Server

EXAMPLES = """\b
Examples:
  chatterbox-tts speak "Good morning." -o morning.mp3
  chatterbox-tts speak "Good morning." --voice austen --play
  chatterbox-tts speak -f chapter.txt -o chapter.opus --exaggeration 0.8
  echo "Good evening." | chatterbox-tts speak -o - --format mp3 > evening.mp3
"""

DEFAULT_OUTPUT = "speech.wav"
STREAM_BYTES = 4096


@with_parameters
def speak(
    parameters: dict[str, Any],
    text: TextArgument = None,
    file: TextFile = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="File to write, whose ending chooses the format; - is standard output. By default "
            f"{DEFAULT_OUTPUT}, and with --play none.",
        ),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Whatever the ending: wav, mp3, fmp4 (mp4, m4a), raw_pcm (pcm), webm, opus (ogg), "
            "aac or flac.",
        ),
    ] = None,
    play: Annotated[bool, typer.Option("--play", help="Play it while it is made.")] = False,
    voice: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="As chatterbox-tts voices lists them; or the path of a recording."
        ),
    ] = None,
    model: ModelOption = None,
    language: LanguageOption = None,
    server: ServerOption = None,
    local: Annotated[
        bool, typer.Option("--local", help="Load a model, even if a service runs on this machine.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
) -> None:
    """Say TEXT into a file, to standard output, or aloud.

    The service that HOST and PORT name is asked if it runs; otherwise a model is loaded, which
    takes longer.
    """
    settings = load_settings(api_key_required=False)
    set_up_logging("ERROR", "speak")
    spoken = read_text(text, file)
    if output is None and not play:
        output = DEFAULT_OUTPUT
    form = format_for(output, format)
    player = find_player() if play else None
    speed = parameters.pop("speed", 1.0)
    if language is not None:
        parameters["language"] = language
    with opened(output, form, player, speed) as out:
        request = {"text": spoken, "voice_id": voice, "model": model, **parameters}
        request = {name: value for name, value in request.items() if value is not None}
        speaker = None if local else _ask_server(settings, server, request, out, quiet=quiet)
        if speaker is None:
            name = asyncio.run(
                speak_here(settings, spoken, voice, model, parameters, out, quiet=quiet)
            )
            speaker = f"{name} model, loaded for this"
        summary = out.finish()
    if not quiet:
        place = f"{output}: " if output not in (None, "-") else ""
        typer.echo(f"{place}{summary}, {speaker}", err=True)


def _ask_server(
    settings: Settings, url: str | None, request: dict[str, Any], out: Output, *, quiet: bool
) -> str | None:
    """Let a running service speak; returns its name, or None if this process has to.

    Raises `ServiceError` for a server that was asked for by its URL.
    """
    from app.cli.server_client import local_server, server_at  # imports httpx

    if url is not None:
        with server_at(url, settings) as server:
            return _speak_by(server, request, out, quiet=quiet)
    with local_server(settings) as server:
        health = server.health()
        if health is None:
            return None
        try:
            if health["status"] == "ready":
                return _speak_by(server, request, out, quiet=quiet)
            reason = f"is {health['status']}"
        except Unauthenticated:
            has_key = settings.api_key.get_secret_value().strip()
            reason = "has another API_KEY" if has_key else "needs API_KEY, which is not set here"
        except VoiceNotFound:
            if not has_voice_file(settings, request["voice_id"]):
                raise
            reason = "has no such voice"
        except ModelNotFound:
            reason = "has no such model"
    if not quiet:
        note(f"the server at {server.url} {reason}; loading a model instead")
    return None


def _speak_by(server: "Server", request: dict[str, Any], out: Output, *, quiet: bool) -> str:
    out.start()
    with server.speech({**request, "format": "raw_pcm"}) as response:
        if (notice := response.headers.get("X-TTS-Notice")) and not quiet:
            note(notice)
        for pcm in response.iter_bytes(STREAM_BYTES):
            out.write(pcm)
        model = response.headers.get("X-TTS-Model", "default")
    return f"{model} model of the server at {server.url}"
