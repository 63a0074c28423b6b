"""`chatterbox-tts text`: what a model is given to speak, without the model."""

from collections import Counter
from unicodedata import name

import typer

from app.cli.options import LanguageOption, ModelOption
from app.cli.text_input import TextArgument, TextFile, read_text
from app.settings import load_settings

EXAMPLES = """\b
Examples:
  chatterbox-tts text "**Hello** → world"
  chatterbox-tts text -f chapter.txt --language de
"""


def show_text(
    text: TextArgument = None,
    file: TextFile = None,
    model: ModelOption = None,
    language: LanguageOption = None,
) -> None:
    """Show the text chunks of TEXT as they are spoken, and what is dropped of it."""
    from app.engines.selection import plain_text_of
    from app.text.chunking import split
    from app.text.cleaning import clean
    from app.text.languages import language_of, parse_language

    settings = load_settings(api_key_required=False)
    plain_text = plain_text_of(model or settings.model, settings.model_path)
    markup: list[str] = []
    cleaned = clean(read_text(text, file), markup=settings.tts_strip_markup, dropped=markup)
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
