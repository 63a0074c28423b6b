"""`chatterbox-tts text`: what a model is given to speak, without the model."""

import sys
from collections import Counter
from typing import Annotated
from unicodedata import name

import typer

from app.core.errors import StartupError
from app.settings import Settings, load_settings


def show_text(
    text: Annotated[str, typer.Argument(help="What to say; - reads standard input.")],
    model: Annotated[
        str | None, typer.Option(help="chatterbox or preview; by default the service's.")
    ] = None,
    language: Annotated[str, typer.Option(help="The language's code.")] = "en",
) -> None:
    """Show the text chunks of TEXT as they are spoken, and what is dropped of it."""
    from app.engines.registry import plain_text_of
    from app.text.chunking import split
    from app.text.cleaning import clean, clean_markup
    from app.text.languages import LANGUAGES

    if language not in LANGUAGES:
        raise StartupError(f"no language {language!r}: give one of {', '.join(LANGUAGES)}")
    settings = load_settings(api_key_required=False)
    plain_text = plain_text_of(_model(settings, model))
    if text == "-":
        text = sys.stdin.buffer.read().decode(errors="replace")
    markup: list[str] = []
    cleaned = clean_markup(text, markup) if settings.tts_strip_markup else clean(text)
    plain = plain_text(cleaned)
    for chunk in split(plain.text, settings.tts_text_processing_chunk_size, LANGUAGES[language]):
        typer.echo(chunk.text)
        if chunk.pause_s:
            typer.echo(f"[pause {chunk.pause_s:g}s]")
    for lost in markup:
        typer.echo(f"dropped: {lost}", err=True)
    for char, count in Counter(plain.dropped).items():
        title = name(char, "no name")
        typer.echo(f"dropped: {char} (U+{ord(char):04X}, {title}), {count} times", err=True)


def _model(settings: Settings, model: str | None) -> str:
    """The engine's name, whether it could start or not."""
    from app.engines.registry import ENGINES
    from app.model_files.manifest import missing

    model = settings.model if model is None else model
    if model == "auto":
        return "preview" if missing(settings.model_path) else "chatterbox"
    if model not in ENGINES and ":" not in model:
        raise StartupError(f"no model {model!r}: give one of {', '.join(ENGINES)}")
    return model
