"""Tell that a text is plainly in another language than the one it is to be spoken in.

Only clear cases are told, by script or by frequent words: a notice that is wrong is worse than
none.
"""

import re
from collections import Counter
from dataclasses import dataclass

from app.text.languages import name_of

MAX_LOOKED_AT = 500
"""Characters, from the start of the text."""

MIN_LETTERS = 4
MIN_SHARE = 0.7
"""Of the letters that are in one script."""

MIN_WORDS = 6
MIN_FREQUENT = 4
"""Different frequent words of a language."""

_SCRIPTS = {
    "Cyrillic": ("\u0400", "\u052f", "ru"),
    "Greek": ("\u0370", "\u03ff", "el"),
    "Hebrew": ("\u0590", "\u05ff", "he"),
    "Arabic": ("\u0600", "\u06ff", "ar"),
    "Devanagari": ("\u0900", "\u097f", "hi"),
    "Japanese": ("\u3040", "\u30ff", "ja"),
    "Chinese": ("\u4e00", "\u9fff", "zh"),
    "Korean": ("\uac00", "\ud7a3", "ko"),
}
"""The first and last letter of a script's main block, and the language that is offered in it."""

_WORDS = {
    "de": "der die und das ist nicht ich ein eine zu mit auf für von dem den sich auch wir sie es "
    "hallo guten wie geht heute hat haben ihm ihn er ihr des weil meine bin sind kann aber oder",
    "fr": "le la les des est et une dans pour que qui ne pas sur vous nous je il elle du avec au "
    "bonjour ceci un tout",
    "es": "el la los las es una en que por para con no se lo del pero como más está y un muy "
    "hola esto de",
    "it": "il la che di è una per non sono con del della gli le si questo anche ma come un nel",
    "pt": "o os as que uma não para com em por se mais como mas foi ao ele das dos é um você",
    "nl": "de het een en van is niet dat ik op te zijn met voor aan er maar om ook als dit bij",
    "sv": "och att det som en är på av för inte jag den med till har de ett om vi så men",
    "da": "og at det som en er på af for ikke jeg den med til har de et om vi så men",
    "no": "og at det som en er på av for ikke jeg den med til har de et om vi så men hva noe",
    "pl": "i w nie na się że to z do jest jak ale co tak po od przez tylko już dla są",
    "tr": "ve bir bu için ile da de çok ne daha gibi ama var olarak kadar ben sen o değil",
    "fi": "ja on ei se että oli hän mutta kun niin ovat tämä mitä minä sinä myös joka kuin",
    "en": "the and of to is in that it was for you with on are this not have be at i we",
}
_LANGUAGES_OF_WORD: dict[str, set[str]] = {}
for _code, _words in _WORDS.items():
    for _word in _words.split():
        _LANGUAGES_OF_WORD.setdefault(_word, set()).add(_code)

_WORD = re.compile(r"[^\W\d_]+")
_ADDRESS = re.compile(r"\S+(://|@|\.\w{2,}/)\S*")
_SENTENCE_START = re.compile(r"(?:^|[.!?…]\s+)\W*(?=[^\W\d_])")


@dataclass(frozen=True)
class OtherLanguage:
    """`description`: the end of a sentence, as "looks like German (de)". `code`: its language."""

    description: str
    code: str


def other_language(text: str, language: str) -> OtherLanguage | None:
    """The language that `text` plainly is in, if that is not `language`, a code."""
    looked_at = text[:MAX_LOOKED_AT]
    letters = [char for char in looked_at if char.isalpha()]
    if len(letters) < MIN_LETTERS:
        return None
    if script := _script([char for char in letters if not char.isascii()], len(letters)):
        code = _SCRIPTS[script][2]
        same = language == code or {language, code} == {"ja", "zh"}
        return None if same else OtherLanguage(f"is in {script} letters", code)
    return _by_words(looked_at, language)


def _script(letters: list[str], number: int) -> str | None:
    """The script that most of `number` letters are in, but for Latin."""
    if len(letters) < MIN_SHARE * number:
        return None
    counts = Counter(
        name
        for char in letters
        for name, (first, last, _) in _SCRIPTS.items()
        if first <= char <= last
    )
    if counts["Japanese"]:
        counts["Japanese"] += counts.pop("Chinese", 0)
    name, count = max(counts.items(), key=lambda each: each[1], default=("", 0))
    return name if count >= MIN_SHARE * number else None


def _by_words(text: str, language: str) -> OtherLanguage | None:
    text = _ADDRESS.sub(" ", text)
    starts = {match.end() for match in _SENTENCE_START.finditer(text)}
    found = list(_WORD.finditer(text))
    # A capital inside a sentence is that of a name, as in "La Jolla" or "Der Spiegel".
    words = [each[0].lower() for each in found if each[0].islower() or each.start() in starts]
    if len(found) < MIN_WORDS:
        return None
    counts = Counter(code for word in words for code in _LANGUAGES_OF_WORD.get(word, ()))
    (code, count), (_, second) = [*counts.most_common(2), ("", 0), ("", 0)][:2]
    different = sum(code in _LANGUAGES_OF_WORD.get(word, ()) for word in set(words))
    is_plain = (
        different >= MIN_FREQUENT
        and count >= 0.25 * len(found)
        and count >= 4 * counts[language]
        and count > second
    )
    return OtherLanguage(f"looks like {name_of(code)}", code) if is_plain else None
