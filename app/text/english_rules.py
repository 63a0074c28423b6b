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
    words = f" {amount}{match['scale'] or ''} {unit}{plural}"
    return f"{words} " if match["end"] else words


def _stars(match: Match) -> str:
    full, empty = len(match["full"]), len(match["empty"])
    return f" {full} out of {full + empty} stars " if empty else f" {full} stars "


def _greek(match: Match) -> str:
    letter = name(match["letter"]).partition(" WITH ")[0].split()[-1].lower()
    letter = letter.replace("lamda", "lambda")  # as Unicode spells it
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
_SCALE = r"(?P<scale> ?(?:thousand|million|billion|trillion|k|K|M|B|bn|m)\b)?"
_RAISED = r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿⁱ]"
_ARROWS = "[→⇒⟶⟹⇨➔➙➛➜➝➞➟➠➡⮕↦]"
_ARROW = rf"(?:(?<!{_ARROWS}){_ARROWS}++|(?<=[ ])(?:-{{1,3}}|={{1,3}})>(?=[ ]))"

RULES: tuple[tuple[regex.Pattern[str], str | Callable[[Match], str]], ...] = tuple(
    (pattern(rule), replacement)
    for rule, replacement in (
        (r"(?<=\d) ?[º˚](?= ?[CF]\b)", "°"),
        (r"« ?| ?»", '"'),
        (r"(?<=\d) – (?=\d)", "-"),
        # 40°26′46″, 5′10″, 5'10"
        (
            r"° ?(?P<m>\d{1,2}) ?[′'’](?: ?(?P<s>\d{1,2}(?:\.\d{1,3})?) ?[″\"”])?",
            lambda m: f" degrees {m['m']} minutes " + (f"{m['s']} seconds " if m["s"] else ""),
        ),
        (
            r"(?<=\d) ?(?:′|['’](?=\d)) ?(?P<i>\d{1,2}(?:[.½¼¾]\d{0,2})?) ?[″\"”]",
            r" feet \g<i> inches ",
        ),
        (r"(?<=\d) ?′", " feet "),
        (r"(?<=\d) ?″", " inches "),
        (r"(?<=\w)[′ʹ]", " prime "),
        (r"° ?C\b", " degrees Celsius "),
        (r"° ?F\b", " degrees Fahrenheit "),
        (r"(?<=\p{L})−(?=\p{L})", "-"),
        (r"[µμ](?P<u>[mslgLVAFWHTN]\b)", lambda m: f" micro{_UNITS.get(m['u'], m['u'])}"),
        (r"(?<=[\dkMG] ?)Ω", " ohms"),
        (
            rf"(?P<sign>{_CURRENCY}) ?(?P<amount>\d(?:[\d.,]{{0,20}}\d)?){_SCALE}(?=(?P<end>\w?))",
            _amount,
        ),
        (rf"(?<=\d)(?P<amount>) ?(?P<sign>{_CURRENCY})(?P<scale>)(?=(?P<end>\w?))", _amount),
        (r"(?P<whole>(?<=\d) ?)?(?P<fraction>[¼½¾⅐-⅞])(?=(?P<end>\w)?)", _fraction),
        (
            rf"(?<=(?P<word>\p{{L}}{{3}})|[\w)])(?P<exponent>{_RAISED}++(?!\p{{Lm}})|\^-?\d{{1,9}})",
            _power,
        ),
        (r"(?P<full>[★⭐]++)(?P<empty>☆++)|(?P<full>[★⭐]{2,}+)(?P<empty>)", _stars),
        (rf"(?<=[\p{{S}}\w)\]\"'’”%.]) ?{_ARROW} ?(?=[\p{{S}}\w(\"'‘“])", " to "),
        (r"(?<=[\w)\]\"'’”%]) ?[•‣◦▪●■·∙] (?=\w)", ", "),
        (r"(?<=\d) ?[·⋅∙] ?(?=\d)", " times "),
        (r"(?<!\p{Greek})(?P<letter>\p{Greek})(?!\p{Greek})(?=(?P<end>\w?))", _greek),
    )
)
"""In this order. Each pattern takes linear time."""

# --- Words ------------------------------------------------------------------------------------

_SPACED = {
    "№": "number", "℅": "care of", "−": "minus", "×": "times", "÷": "divided by",
    "±": "plus or minus", "∓": "minus or plus", "√": "square root of", "∑": "sum of",
    "∏": "product of", "≈": "about", "≅": "about", "∼": "about", "°": "degrees",
    "˚": "degrees", "‰": "per mille",
    "§": "section", "¶": "paragraph", "©": "copyright", "®": "registered", "™": "trademark",
    "℠": "service mark", "¢": "cents", "←": "from", "↔": "and", "⇔": "is equivalent to",
    "↑": "up", "↓": "down", "✅": "check mark", "✔": "check mark", "✓": "check mark",
    "☑": "check mark", "❌": "cross mark", "✖": "cross mark", "✗": "cross mark",
    "✘": "cross mark", "❎": "cross mark", "⚠": "warning", "👍": "thumbs up",
    "👎": "thumbs down", "❤": "heart", "♥": "heart", "💯": "one hundred", "➕": "plus",
    "➖": "minus", "➗": "divided by", "🔟": "10", "★": "star", "⭐": "star", "♯": "sharp",
    "♭": "flat", "♀": "female", "♂": "male", "⁺": "plus", "⁻": "minus",
}  # fmt: skip
_PLAIN = {
    **dict.fromkeys("ʼʹˈʻʽʾʿ′‵´`‚‛‹›＇", "'"),
    **dict.fromkeys("ʺ″‶„‟«»「」『』《》〈〉〝〞〟", '"'),
    **dict.fromkeys("‐‑‒⁃", "-"), "―": "—", "⁄": "/", "∕": "/", "∗": "*", "⋅": " times ",
    "❓": "?", "❔": "?", "❗": "!", "❕": "!", "‽": "?!", "⸮": "?", "。": ". ", "、": ", ",
    "।": ". ", "॥": ". ", "။": ". ", "។": ". ", "،": ",", "؛": ";", "؟": "?", "۔": ".",
    **dict.fromkeys("•‣◦▪▫●○■□☐▶►◆◇·∙※†‡⁂¿¡→⇒⟶⟹⇨➔➙➛➜➝➞➟➠➡⮕↦¦¨¯¸☆\u20e3\u00a0\u00ad", " "),
}  # fmt: skip
WORDS = {sign: f" {words} " for sign, words in _SPACED.items()} | _PLAIN
"""What a sign is replaced by wherever it stands; by a space if it is mere decoration."""
