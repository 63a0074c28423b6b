"""What espeak, the preview voice's frontend, needs of a text; imports no model code."""

import regex
import sentencex

from app.text.languages import ENGLISH
from app.text.patterns import pattern


def join_abbreviations(text: str) -> str:
    """Drop the full stops that end no sentence, at each of which espeak would end one.

    Abbreviations that espeak would spell out become words.
    """
    text = _STREET.sub("Street", text)
    for abbreviation, words in _ABBREVIATIONS:
        text = abbreviation.sub(lambda match, words=words: words[match[1]], text)
    sentences = sentencex.segment(ENGLISH.code, text)
    return "".join(_INNER_STOP.sub("", sentence) for sentence in sentences)


_STREET = pattern(r"(?<=\p{Lu}\p{L}{1,30}\s)St\b\.?(?!\s\p{Lu})")
_INNER_STOP = pattern(r"(?<=\w)(?<!\b[Nn]o)\.(?=\s+\S)")

_BEFORE_NAME = {
    "Capt": "Captain", "Col": "Colonel", "Gen": "General", "Gov": "Governor", "Lt": "Lieutenant",
    "Maj": "Major", "Mt": "Mount", "Prof": "Professor", "Rep": "Representative",
    "Rev": "Reverend", "Sen": "Senator", "Sgt": "Sergeant", "Ft": "Fort",
}  # fmt: skip
_BEFORE_NUMBER = {
    "Apr": "April", "Aug": "August", "Ch": "Chapter", "ch": "chapter", "Dec": "December",
    "Eq": "Equation", "eq": "equation", "Feb": "February", "Fig": "Figure", "fig": "figure",
    "Jan": "January", "Jul": "July", "Jun": "June", "Mar": "March", "No": "number",
    "no": "number", "Nos": "numbers", "nos": "numbers", "Nov": "November", "Oct": "October",
    "p": "page", "pp": "pages", "Sec": "Section", "sec": "section", "Sep": "September",
    "Sept": "September", "Vol": "Volume", "vol": "volume",
}  # fmt: skip
_WITHIN = {
    "approx": "approximately", "Approx": "Approximately", "Ave": "Avenue", "Blvd": "Boulevard",
    "ca": "circa", "cf": "compare", "Co": "Company", "Corp": "Corporation", "dept": "department",
    "Dept": "Department", "ed": "edition", "esp": "especially", "est": "established",
    "etc": "et cetera", "ext": "extension", "ft": "feet", "govt": "government", "hr": "hour",
    "hrs": "hours", "Inc": "Incorporated", "incl": "including", "Jr": "Junior", "lb": "pound",
    "lbs": "pounds", "Ltd": "Limited", "max": "maximum", "min": "min", "oz": "ounces",
    "Rd": "Road", "Sr": "Senior", "temp": "temperature", "vs": "versus", "yr": "year",
    "yrs": "years",
}  # fmt: skip
_LATIN = {"e.g": "for example", "E.g": "For example", "i.e": "that is", "I.e": "That is"}


def _followed(words: dict[str, str], following: str) -> tuple[regex.Pattern[str], dict[str, str]]:
    return pattern(rf"\b({'|'.join(map(regex.escape, words))})\.{following}"), words


_ABBREVIATIONS = (
    _followed(_LATIN, r"(?=,?\s)"),
    _followed(_BEFORE_NAME, r"(?=\s+\p{Lu})"),
    _followed(_BEFORE_NUMBER, r"(?=\s*\p{Nd})"),
    _followed(_WITHIN, r"(?=,|\s+[\p{Ll}\p{Nd}(\"'])"),
    _followed({"vs": "versus", "v": "versus"}, r"(?=\s+\p{Lu}\p{Ll})"),
)
