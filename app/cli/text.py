"""`chatterbox-tts text`: what a model is given to speak, without the model."""

import sys
from collections import Counter
from typing import Annotated
from unicodedata import name

import typer

from app.settings import load_settings


def show_text(
    text: Annotated[str, typer.Argument(help="What to say; - reads standard input.")],
    model: Annotated[
        str | None, typer.Option(help="As in MODEL, which is the default: turbo, for one.")
    ] = None,
    language: Annotated[
        str | None, typer.Option(help="Its code, such as de; by default DEFAULT_LANGUAGE.")
    ] = None,
) -> None:
    """Show the text chunks of TEXT as they are spoken, and what is dropped of it."""
    from app.engines.selection import plain_text_of
    from app.text.chunking import split
    from app.text.cleaning import clean
    from app.text.languages import language_of, parse_language

    settings = load_settings(api_key_required=False)
    plain_text = plain_text_of(model or settings.model, settings.model_path)
    if text == "-":
        text = sys.stdin.buffer.read().decode(errors="replace")
    markup: list[str] = []
    cleaned = clean(text, markup=settings.tts_strip_markup, dropped=markup)
    spoken = language_of(parse_language(language or settings.default_language))
    plain = plain_text(cleaned, spoken.code)
    for chunk in split(plain.text, settings.tts_text_processing_chunk_size, spoken):
        typer.echo(chunk.text)
        if chunk.pause_s:
            typer.echo(f"[pause {chunk.pause_s:g}s]")
    for lost in markup:
        typer.echo(f"dropped: {lost}", err=True)
    for char, count in Counter(plain.dropped).items():
        title = name(char, "no name")
        typer.echo(f"dropped: {char} (U+{ord(char):04X}, {title}), {count} times", err=True)
