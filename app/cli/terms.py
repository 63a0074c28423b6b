"""Messages of the API in terms of the command line, whose options have other names."""

import re

from app.core.params import ALL_PARAMETERS

_PHRASES = {
    "POST /voices adds one": "chatterbox-tts voices add adds one",
    "GET /voices lists": "chatterbox-tts voices lists",
    "set language to": "add --language",
}
_OPTIONS = {"voice_id": "--voice", "text": "TEXT"} | {
    name: f"--{name.replace('_', '-')}" for name in (*ALL_PARAMETERS, "model", "format")
}
_NAMES = "|".join(_OPTIONS)
_NO_WORDS = "|".join(name for name in _OPTIONS if "_" in name)
_PARAMETER = re.compile(rf"'(?P<quoted>{_NAMES})'|\b(?P<bare>{_NO_WORDS})\b(?!\.\w)")


def in_options(message: str) -> str:
    """Write `--top-k` for `top_k` or `'top_k'`.

    Names that are also words, such as `seed`, are replaced where they are in quotes.
    """
    for said, here in _PHRASES.items():
        message = message.replace(said, here)
    return _PARAMETER.sub(lambda name: _OPTIONS[name["quoted"] or name["bare"]], message)
