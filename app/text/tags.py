"""Tags and entities of HTML and SSML in a text."""

from collections.abc import Callable
from html import unescape
from unicodedata import lookup

import regex

from app.text.patterns import pattern
from app.text.pauses import LINE_END, LINE_S, PARAGRAPH_S, mark

Keep = Callable[[str], str]
"""Replaces a text by a placeholder that no later rule changes."""


def strip_tags(text: str, keep: Keep, dropped: list[str]) -> str:
    """Drop tags, comments and the thoughts of a language model; `dropped` receives the latter two.

    A tag may end a line or a paragraph, and a `<break>` is a pause. A word in angle brackets that
    is no tag, such as `<name>`, loses the brackets only.
    """
    for begin, end in _UNSPOKEN:
        text = _strip_between(begin, end, text, dropped)
    text = _AUTOLINK.sub(r"\1", _DECLARATION.sub(" ", text))
    text = _SUPERSCRIPT.sub(lambda match: _raised(match["digits"]), text)
    closed = {name.lower() for name in _CLOSING.findall(text)}

    def replace(tag: regex.Match[str]) -> str:
        name = tag["name"].lower()
        if name == "break":
            return keep(mark(_break_s(tag["attributes"])))
        is_closing, is_empty = tag["closing"], tag["attributes"] or tag["empty"]
        is_tag = bool(is_closing or is_empty or name in closed)
        if not is_tag and (name in _WORDS or (len(name) == 1 and name != "p")):
            return show(tag)
        if instead := _INSTEAD.get(name):
            return instead
        if name in ("td", "th"):
            return ", " if is_closing else ""
        if name in _SILENT:
            return ""
        return " " if is_tag or ":" in name else show(tag)

    def show(tag: regex.Match[str]) -> str:
        """The name alone, but for what may be code."""
        if not _OUTSIDE_WORD.match(text, tag.start()):
            return str(tag[0])
        following = text[tag.end() : tag.end() + 1]
        return f"{tag['name']} " if following.isalnum() or following == "<" else str(tag["name"])

    return str(_TAG.sub(replace, text))


def decode_entities(text: str) -> str:
    """Decode each entity once. Those that lack a semicolon stay, as in `?a=1&copy=2`."""
    return str(_ENTITY.sub(lambda entity: unescape(entity[0]), text))


def _strip_between(begin: str, end: str, text: str, dropped: list[str]) -> str:
    """Drop all from `begin` to `end`; one without the other is text."""
    *before, rest = text.split(end)
    kept = []
    for part in before:
        outside, begins, unspoken = part.partition(begin)
        kept.append(outside if begins else f"{part}{end}")
        dropped += [unspoken.strip()] * bool(begins)
    return "".join((*kept, rest))


def _break_s(attributes: str) -> float:
    if time := _TIME.search(attributes):
        return float(time["amount"]) / (1000 if time["unit"].lower() == "ms" else 1)
    strength = _STRENGTH.search(attributes)
    return _STRENGTHS.get(strength["name"].lower() if strength else "", PARAGRAPH_S)


def _raised(digits: str) -> str:
    names = ("ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE")
    return "".join(lookup(f"SUPERSCRIPT {names[int(digit)]}") for digit in digits)


_UNSPOKEN = (("<!--", "-->"), ("<think>", "</think>"), ("<thinking>", "</thinking>"))

# No attempt to match passes another "<", so the time is linear.
_VALUE = r"""(?:"[^"<]*+"|'[^'<]*+'|[^\s"'<>=`/]++(?:/[^\s"'<>=`/]++)*+)"""
_ATTRIBUTE = (
    rf"\s++(?:[\w:.-]++\s*+=\s*+{_VALUE}"
    r"|(?:open|checked|disabled|hidden|controls|async|defer|required|selected|reversed)\b)"
)
_TAG = pattern(
    r"<(?P<closing>/?)(?P<name>[A-Za-z][\w:.-]*+)"
    rf"(?P<attributes>(?:{_ATTRIBUTE})*+)\s*+(?P<empty>/?)>"
)
_CLOSING = pattern(r"</([A-Za-z][\w:.-]*+)\s*+>")
_DECLARATION = pattern(r"<\?[^<>]*+>|<![A-Za-z\[][^<>]*+>|<\|[^<>|\s]*+\|>")
_AUTOLINK = pattern("<(\ufdd0[0-9]++\ufdd1|[\\w.+-]++@[\\w.-]++)>")
_SUPERSCRIPT = pattern(r"(?i)<sup>(?P<digits>[0-9]{1,9})</sup>")
_ENTITY = pattern(r"&(?:#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_OUTSIDE_WORD = pattern(r"(?<!\w)")
_TIME = pattern(
    r"""(?i)\btime\s*+=\s*+["']?\+?(?P<amount>[0-9]{1,6}(?:\.[0-9]{1,6})?|\.[0-9]{1,6})
\s*+(?P<unit>ms|s)""".replace("\n", "")
)
_STRENGTH = pattern(r"""(?i)\bstrength\s*+=\s*+["']?(?P<name>[a-z-]++)""")
_STRENGTHS = {
    "none": 0.0, "x-weak": 0.1, "weak": LINE_S, "medium": PARAGRAPH_S, "strong": 0.8,
    "x-strong": 1.2,
}  # fmt: skip

_WORDS = {
    "address", "article", "audio", "body", "button", "caption", "center", "code", "data", "del",
    "desc", "details", "emphasis", "figure", "font", "footer", "form", "head", "header", "input",
    "ins", "label", "link", "main", "mark", "object", "option", "picture", "section", "select",
    "small", "source", "speak", "strike", "strong", "style", "summary", "table", "template",
    "time", "title", "token", "video", "voice",
}  # fmt: skip
"""Names of tags that are words, too: alone, as in `<title>`, they say what to fill in."""

_PARAGRAPHS = (
    "address", "article", "aside", "blockquote", "body", "div", "dl", "fieldset", "figure",
    "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "head", "header", "hr", "html", "main",
    "nav", "ol", "p", "pre", "section", "table", "title", "ul",
)  # fmt: skip
_LINES = ("br", "caption", "dd", "details", "dt", "figcaption", "li", "option", "summary", "tr")
_SPACES = (
    "audio", "button", "col", "colgroup", "data", "desc", "iframe", "input", "label", "lang",
    "lexicon", "link", "meta", "object", "param", "prosody", "s", "script", "select", "source",
    "speak", "style", "tbody", "template", "textarea", "tfoot", "thead", "token", "video",
    "voice",
)  # fmt: skip
_INSTEAD = {
    **dict.fromkeys(_PARAGRAPHS, "\n\n"),
    **dict.fromkeys(_LINES, LINE_END),
    **dict.fromkeys(_SPACES, " "),
}
"""What a tag is replaced by, if not by nothing."""

_SILENT = {
    "a", "abbr", "acronym", "b", "bdi", "bdo", "big", "canvas", "center", "cite", "code", "del",
    "dfn", "em", "emphasis", "font", "i", "img", "ins", "kbd", "mark", "phoneme", "picture", "q",
    "rp", "rt", "ruby", "samp", "say-as", "small", "span", "strike", "strong", "sub", "sup",
    "svg", "time", "tt", "u", "var", "w", "wbr",
}  # fmt: skip
