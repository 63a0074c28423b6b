"""The language of a voice: the code before the ending of its file's name, as in `giulia.it.wav`.

Subtitles are named like this (`film.it.srt`), and a name goes with the file to other folders and
servers. Not every name that looks like it has a code:

- `Dr. No.wav`, `Say.It.wav`: codes are in small or in capital letters, words may begin with one;
- `mr.no.wav`, `dr.it.mp3`: after a title, which takes a dot, there is a person's name;
- `take.la.wav`, `no.wav`: there is no such language among those of the models, or no name before.
"""

import re

from app.text.languages import LANGUAGES, parse_language

_TAG = re.compile(r"(?:[a-z]{2,3}|[A-Z]{2,3})(?:[-_](?i:hans|hant|[a-z]{2}|\d{3}))*")
_TITLES = frozenset({"dr", "jr", "mr", "mrs", "ms", "prof", "sr", "st"})
_NOT_IN_A_WORD = re.compile(r"[\W_]")

_LANGUAGE_OF_RECORDING = {
    "62438b67d1fbc3128a57ef7d58daa9ad4a742c4eea12698387527af89f141222": "en",  # austen.wav
    "14c777cdf544f6dadf37fe1bda27ea17831d45d45a4a4e9c7f35d47531a69729": "en",  # joe-synthetic.flac
    "cb2142b878e5bf99b259db49089b77ac065c143c0b30f43eb4dda0d8ffd78f81": "en",  # slt-synthetic.flac
}
"""By digest: of the preloaded voices whose ids, without a code, are in use.

It is their accent; they speak `DEFAULT_LANGUAGE`, as other voices without a code do."""


def language_of_voice(voice_id: str, digest: str) -> str | None:
    """The ISO 639-1 code of the voice's language; None if it is unknown."""
    return named_language(voice_id) or _LANGUAGE_OF_RECORDING.get(digest)


def named_language(voice_id: str) -> str | None:
    """The code of the language in the voice's name, in which it speaks unless another is asked."""
    name, _, tag = voice_id.rpartition(".")[0].rpartition(".")
    if not name or not _TAG.fullmatch(tag):
        return None
    if _NOT_IN_A_WORD.split(name)[-1].casefold() in _TITLES:
        return None
    code = parse_language(tag)
    return code if code in LANGUAGES else None
