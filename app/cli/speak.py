"""`chatterbox-tts speak`: speech by a running service, or by a model that is loaded for it."""

import asyncio
from typing import Annotated, Any

import typer

from app.cli.local_speech import speak_here
from app.cli.options import LanguageOption, ModelOption, ServerOption, with_parameters
from app.cli.output import format_for, opened
from app.cli.player import find_players
from app.cli.server_speech import speak_by_server
from app.cli.text_input import TextArgument, TextFile, read_text
from app.core.log import set_up_logging
from app.settings import load_settings

EXAMPLES = """\b
Examples:
  chatterbox-tts speak "Good morning." -o morning.mp3
  chatterbox-tts speak "Good morning." --voice austen --play
  chatterbox-tts speak -f chapter.txt -o chapter.opus --exaggeration 0.8
  echo "Good evening." | chatterbox-tts speak -o - --format mp3 > evening.mp3
"""

DEFAULT_OUTPUT = "speech.wav"

OutputOption = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="File to write, whose ending chooses the format; - is standard output. By default "
        f"{DEFAULT_OUTPUT}, and with --play none.",
    ),
]
FormatOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Whatever the ending: wav, mp3, fmp4 (mp4, m4a), raw_pcm (pcm), webm, opus (ogg), aac "
        "or flac.",
    ),
]
VoiceOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="As chatterbox-tts voices lists them; or the path of a recording."
    ),
]


@with_parameters
def speak(
    parameters: dict[str, Any],
    text: TextArgument = None,
    file: TextFile = None,
    output: OutputOption = None,
    format: FormatOption = None,
    play: Annotated[bool, typer.Option("--play", help="Play it while it is made.")] = False,
    voice: VoiceOption = None,
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
    speed = parameters.pop("speed", 1.0)
    others = {"voice_id": voice, "model": model, "language": language}
    request = parameters | {name: value for name, value in others.items() if value is not None}
    request["text"] = spoken
    players = find_players() if play else []
    with opened(output, format_for(output, format), players, speed) as out:
        speaker = None if local else speak_by_server(settings, server, request, out, quiet=quiet)
        if speaker is None:
            speaker = asyncio.run(speak_here(settings, request, out, quiet=quiet))
        summary = out.finish()
    if not quiet:
        place = f"{output}: " if output not in (None, "-") else ""
        typer.echo(f"{place}{summary}, {speaker}", err=True)
