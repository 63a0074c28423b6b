"""What English calls signs: rules for signs among numbers and words, and words for single ones."""

from collections.abc import Callable
from typing import Any, TypeAlias
from unicodedata import name, normalize

import regex

from app.text.patterns import pattern

Match: TypeAlias = Any
"""Of `regex`, which has no types."""


# --- Rules ------------------------------------------------------------------------------------


def _fraction(match: Match) -> str:
    numerator, _, denominator = normalize("NFKC", match["fraction"]).partition("⁄")
    if not denominator or denominator == "0" or (numerator, denominator) == ("0", "3"):
        return str(match[0])
    part = _PARTS[int(denominator)]
    count = _COUNTS[int(numerator)]
    article = "an" if part == "eighth" else "a"
    words = f"{article} {part}" if count == "one" else f"{count} {part}s"
    words += " " if match["end"] else ""
    return f" {words}" if match["whole"] is None else f" and {words}"


def _power(match: Match) -> str:
    exponent = match["exponent"]
    number = normalize("NFKC", exponent.lstrip("^")).replace("−", "minus ").replace("-", "minus ")
    if exponent in ("²", "^2"):
        return " squared "
    if exponent in ("³", "^3"):
        return " cubed "
    if exponent[-1] in "⁺⁻":  # of an ion
        return f" {number.replace('+', ' plus')} "
    if match["word"]:  # a note's number, rather than a power of a word
        return f" {number} "
    return f" to the {number} "


def _amount(match: Match) -> str:
    title = name(match["sign"]).removesuffix(" SIGN").lower()
    unit = title.split()[-1]
    amount = match["amount"]
    plural = "" if amount == "1" or unit in ("yen", "won", "baht") else "s"
    return f" {amount}{match['scale'] or ''} {unit}{plural} "


def _stars(match: Match) -> str:
    full, empty = len(match["full"]), len(match["empty"])
    return f" {full} out of {full + empty} stars " if empty else f" {full} stars "


def _greek(match: Match) -> str:
    letter = name(match["letter"]).partition(" WITH ")[0].split()[-1].lower()
    return f" {letter} " if match["end"] else f" {letter}"


_PARTS = {
    2: "half", 3: "third", 4: "quarter", 5: "fifth", 6: "sixth", 7: "seventh", 8: "eighth",
    9: "ninth", 10: "tenth",
}  # fmt: skip
_COUNTS = ["zero", "one", "two", "three", "four", "five", "six", "seven"]

_UNITS = {
    "m": "meters", "s": "seconds", "l": "liters", "L": "liters", "g": "grams", "V": "volts",
    "A": "amperes", "F": "farads", "W": "watts", "H": "henries", "T": "teslas", "N": "newtons",
}  # fmt: skip

_CURRENCY = r"[\p{Sc}--[$¢]]"
_SCALE = r"(?P<scale>\s?(?:thousand|million|billion|trillion|k|K|M|B|bn|m)\b)?"
_RAISED = r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿⁱ]"
_ARROW = r"(?:[→⇒⟶⟹⇨➔➙➛➜➝➞➟➠➡⮕↦]++|(?<=\s)(?:-{1,3}|={1,3})>(?=\s))"

RULES: tuple[tuple[regex.Pattern[str], str | Callable[[Match], str]], ...] = tuple(
    (pattern(rule), replacement)
    for rule, replacement in (
        # 40°26′46″, 5′10″, 5'10"
        (
            r"°\s?(?P<m>\d{1,2})\s?[′'’](?:\s?(?P<s>\d{1,2}(?:\.\d{1,3})?)\s?[″\"”])?",
            lambda m: f" degrees {m['m']} minutes " + (f"{m['s']} seconds " if m["s"] else ""),
        ),
        (
            r"(?<=\d)\s?(?:′|'(?=\d))\s?(?P<i>\d{1,2}(?:[.½¼¾]\d{0,2})?)\s?[″\"”]",
            r" feet \g<i> inches ",
        ),
        (r"(?<=\d)\s?′", " feet "),
        (r"(?<=\d)\s?″", " inches "),
        (r"(?<=\w)[′ʹ]", " prime "),
        (r"°\s?C\b", " degrees Celsius "),
        (r"°\s?F\b", " degrees Fahrenheit "),
        (r"(?<=\p{L})−(?=\p{L})", "-"),
        (r"[µμ](?P<u>[mslgLVAFWHTN]\b)", lambda m: f" micro{_UNITS.get(m['u'], m['u'])}"),
        (r"(?<=[\dkMG]\s?)Ω", " ohms"),
        (rf"(?P<sign>{_CURRENCY})\s?(?P<amount>\d(?:[\d.,]{{0,20}}\d)?){_SCALE}", _amount),
        (rf"(?<=\d)(?P<amount>)\s?(?P<sign>{_CURRENCY})(?P<scale>)", _amount),
        (r"(?P<whole>(?<=\d)\s?)?(?P<fraction>[¼½¾⅐-⅞])(?=(?P<end>\w)?)", _fraction),
        (
            rf"(?<=(?P<word>\p{{L}}{{3}})|[\w)])(?P<exponent>{_RAISED}++(?!\p{{Lm}})|\^-?\d{{1,9}})",
            _power,
        ),
        (r"(?P<full>[★⭐]++)(?P<empty>☆++)|(?P<full>[★⭐]{2,}+)(?P<empty>)", _stars),
        (rf"(?<=[\w)\]\"'’”%.])\s?{_ARROW}\s?(?=[\w(\"'‘“])", " to "),
        (r"(?<=[\w)\]\"'’”%])\s?[•‣◦▪●■·∙]\s(?=\w)", ", "),
        (r"(?<=\d)\s?[·⋅∙]\s?(?=\d)", " times "),
        (r"(?<!\p{Greek})(?P<letter>\p{Greek})(?!\p{Greek})(?=(?P<end>\w?))", _greek),
    )
)
"""In this order. Each pattern takes linear time."""

# --- Words ------------------------------------------------------------------------------------

_SPACED = {
    "№": "number", "℅": "care of", "−": "minus", "×": "times", "÷": "divided by",
    "±": "plus or minus", "∓": "minus or plus", "√": "square root of", "∑": "sum of",
    "∏": "product of", "≈": "about", "≅": "about", "∼": "about", "°": "degrees", "‰": "per mille",
    "§": "section", "¶": "paragraph", "©": "copyright", "®": "registered", "™": "trademark",
    "℠": "service mark", "¢": "cents", "←": "from", "↔": "and", "⇔": "is equivalent to",
    "↑": "up", "↓": "down", "✅": "check mark", "✔": "check mark", "✓": "check mark",
    "☑": "check mark", "❌": "cross mark", "✖": "cross mark", "✗": "cross mark",
    "✘": "cross mark", "❎": "cross mark", "⚠": "warning", "👍": "thumbs up",
    "👎": "thumbs down", "❤": "heart", "♥": "heart", "💯": "one hundred", "➕": "plus",
    "➖": "minus", "➗": "divided by", "🔟": "10", "★": "star", "⭐": "star", "♯": "sharp",
    "♭": "flat", "♀": "female", "♂": "male",
}  # fmt: skip
_PLAIN = {
    **dict.fromkeys("ʼʹˈʻʽʾʿ′‵´`‚‛‹›＇", "'"),
    **dict.fromkeys("ʺ″‶„‟«»「」『』《》〈〉〝〞〟", '"'),
    **dict.fromkeys("‐‑‒⁃", "-"), "―": "—", "⁄": "/", "∕": "/", "∗": "*", "⋅": " times ",
    "❓": "?", "❔": "?", "❗": "!", "❕": "!", "‽": "?!", "⸮": "?", "。": ". ", "、": ", ",
    "।": ". ", "॥": ". ", "။": ". ", "។": ". ", "،": ",", "؛": ";", "؟": "?", "۔": ".",
    **dict.fromkeys("•‣◦▪▫●○■□▶►◆◇·∙※†‡⁂¿¡→⇒⟶⟹⇨➔➙➛➜➝➞➟➠➡⮕↦¦¨¯¸☆\u20e3\u00a0\u00ad", " "),
}  # fmt: skip
WORDS = {sign: f" {words} " for sign, words in _SPACED.items()} | _PLAIN
"""What a sign is replaced by wherever it stands; by a space if it is mere decoration."""
