"""Preparation of text by languages for Chatterbox Multilingual, and which of them are missing.

Nothing is downloaded here: a language without its packages or files is left out, with the reason.
"""

import logging
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from app.engines.chatterbox.frontend import chinese, japanese
from app.text.languages import LANGUAGES, Language

log = logging.getLogger(__name__)

Preparation = Callable[[str], str]
"""What upstream's `MTLTokenizer.encode` does with a lower-case text in NFKD for one language."""

PREPARATIONS: dict[str, Callable[[Path], Preparation]] = {
    "ja": japanese.load,
    "ko": lambda folder: str.strip,  # NFKD has split syllables into jamo already
    "zh": chinese.load,
}
"""By code, what loads a preparation from the model's folder.

Upstream's Hebrew and Russian need packages that it does not install; without them, as here, it
leaves these texts as they are.
"""


def missing_helper(language: Language, folder: Path) -> str | None:
    """What the language lacks to be spoken, with the cure; imports nothing."""
    packages = [name for name in language.packages if not find_spec(name)]
    if packages:
        return f"the package {', '.join(packages)} is missing, which the extra 'languages' installs"
    files = [name for name in language.files if not (folder / name).is_file()]
    if files:
        return (
            f"{folder} lacks {', '.join(files)}: "
            f"'chatterbox-tts models download {folder.name}' fetches them"
        )
    return None


def load_preparations(folder: Path) -> tuple[dict[str, Preparation], dict[str, str]]:
    """The preparations by code, and the reasons why others are missing."""
    loaded: dict[str, Preparation] = {}
    missing: dict[str, str] = {}
    for code, load in PREPARATIONS.items():
        if reason := missing_helper(LANGUAGES[code], folder):
            missing[code] = reason
            continue
        try:
            loaded[code] = load(folder)
        except Exception as error:  # packages raise anything for a damaged file
            missing[code] = f"its text preparation cannot be loaded: {error}"
            log.debug("%s", missing[code], exc_info=True)
    for code, reason in missing.items():
        log.warning("%s is not offered: %s", LANGUAGES[code].name, reason)
    return loaded, missing
