"""Markdown, tags and entities → the text that they show, with pauses where they end a line.

Rules rather than a Markdown parser, which would take `5*3=15, 2*4=8` for emphasis, and drop numbers
of lists and definitions. Every rule takes linear time.
"""

import regex

from app.text.inline import strip_inline
from app.text.patterns import LINE_BREAK, pattern
from app.text.pauses import LINE_END
from app.text.tags import Keep, decode_entities, strip_tags
from app.text.visible import visible


def strip_markup(text: str, dropped: list[str]) -> str:
    """What `text` says, for `cleaning`. `text` is visible; `dropped` receives what is lost."""
    if _PLAIN.fullmatch(text):
        return text
    kept: list[str] = []

    def keep(literal: str) -> str:
        kept.append(literal)
        return f"\ufdd0{len(kept) - 1}\ufdd1"

    def restore(text: str) -> str:
        return str(_KEPT.sub(lambda match: kept[int(match[1])], text))

    lost: list[str] = []
    text = text.translate(dict.fromkeys(map(ord, "\ufdd0\ufdd1")))
    text = _keep_code_blocks(text, keep, lost)
    text = _LITERAL.sub(lambda literal: keep(_content(literal)), text)
    text = strip_tags(text, keep, lost)
    labels: set[str] = set()
    text = _strip_blocks(LINE_BREAK.split(text), labels, lost)
    text = strip_inline(text, labels, lost)
    dropped += map(restore, lost)
    return restore(visible(decode_entities(text)))


def _keep_code_blocks(text: str, keep: Keep, lost: list[str]) -> str:
    """Keep the lines of fenced code as they are; drop the fences with the language."""
    lines, fence, is_quoted = [], "", False
    for line in LINE_BREAK.split(text):
        opening = _FENCE.match(line)
        code = (_QUOTE.sub("", line) if is_quoted else line).strip()
        if fence and code.startswith(fence) and not code.strip(fence[0]):
            fence = ""
            lines.append("")
        elif not fence and opening:
            fence, is_quoted = opening["fence"], bool(opening["quote"])
            lost += filter(None, [opening["language"].strip()])
            lines.append("")
        elif fence and code:
            lines.append(f"{LINE_END}{keep(code)}{LINE_END}")
        else:
            lines.append(line)
    return "\n".join(lines)


def _content(literal: regex.Match[str]) -> str:
    code = literal["code"] or literal["quoted"]
    return str(code.strip() if code else literal["escaped"] or literal["address"])


# --- Blocks -----------------------------------------------------------------------------------


def _strip_blocks(lines: list[str], labels: set[str], lost: list[str]) -> str:
    """Strip quotes, headings, rules, lists, tables and definitions, whose `labels` are added."""
    shown: list[str] = []
    in_table = in_item = False
    for quoted in lines:
        line = _QUOTE.sub("", quoted) if ">" in quoted else quoted
        is_rule = _is_table_rule(line)
        in_table = is_rule or (in_table and "|" in line)
        block = _BLOCK.match(line)
        if is_rule:
            shown += [_row(shown.pop())] if shown else []
        elif in_table or _ROW.match(line):
            shown.append(_row(line))
        elif block is None:
            shown.append(_HARD_BREAK.sub(LINE_END, line))
            if in_item and line.strip() and line.startswith(("  ", "\t")):
                shown[-2:] = [f"{shown[-2]} {shown[-1].lstrip()}"]
                continue
        else:
            shown += _show(block, line[block.end() :], labels, lost)
        in_item = bool(block and block["item"])
    return "\n".join(shown)


def _show(block: regex.Match[str], rest: str, labels: set[str], lost: list[str]) -> list[str]:
    """The lines for one that begins with a mark, before `rest`."""
    if block["heading"]:
        return ["", _CLOSING_MARKS.sub("", rest), ""]
    if block["item"]:
        return [f"{LINE_END}{block['number'] or ''}{_HARD_BREAK.sub(LINE_END, rest)}"]
    if block["label"]:
        labels.add(block["label"].lower())
        lost.append(block["address"])
        return []
    return [(block["callout"] or "") + rest]  # a rule, a note, a definition


def _is_table_rule(line: str) -> bool:
    return "|" in line and "-" in line and not line.strip("|:-+ \t")


def _row(line: str) -> str:
    cells = (cell.strip() for cell in line.strip(f"{LINE_END} \t").strip("|").split("|"))
    return LINE_END + ", ".join(filter(None, cells)) + LINE_END


_PLAIN = pattern(r"\p{L}[\p{L}\p{M}\p{Nd} ,.;:!?'’\"“”()–—-]*+")
"""One line without marks, as most texts are."""

_KEPT = pattern("\ufdd0([0-9]+)\ufdd1")
_FENCE = pattern(r"\s{0,9}(?P<quote>(?:>\s?)*+)(?P<fence>`{3,}+|~{3,}+)(?P<language>[^`]*+)$")
_LITERAL = pattern(
    r"(?<!`)`(?!`)(?P<code>[^`\n]++)`(?!`)"
    r"|(?<!`)``(?!`)(?P<quoted>(?:[^`\n]|`(?!`))++)``(?!`)"
    r"|\\(?P<escaped>[!-/:-@\[-`{-~])"
    r"|(?P<address>\b(?:https?|ftp)://[^\s<>()\[\]*`\"|]++)"
)
_QUOTE = pattern(r"^\s{0,9}(?:>\s?)++")
_ROW = pattern(r"\s*+\|.*\|\s*$")
_BLOCK = pattern(
    r"\s*+(?:\[!(?P<callout>\w++)\]"
    r"|\[(?P<label>[^\^\[\]][^\[\]]*+)\]:\s++(?P<address>(?:\ufdd0|[/.#]|www\.|mailto:)\S*+)"
    r"(?=\s*+(?:\"[^\"]*+\"|'[^']*+'|\([^()]*+\))?\s*+$)"
    r"|\[\^[^\[\]]++\]:|:\s++"
    r"|([-*_=~+])(?:[ \t]*+\4){2,}+\s*+$"
    r"|(?P<heading>\#{1,6}+[ \t]++|\#{2,6}+(?=\w))"
    r"|(?P<item>(?:(?P<number>\(?[0-9]{1,9}[.)]\s)|(?:[-*•‣◦▪▫●○■□∙·➢➤–—]\s++)++|\+\s(?!\s*\d))\s*+"
    r"(?:\[[ xX]\]\s++)?))"
)
_CLOSING_MARKS = pattern(r"(?<=\s)#+\s*+$")
_HARD_BREAK = pattern(r"(?<=\S)(?:\\|[ ]{2,})$")
