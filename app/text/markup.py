"""Markdown, tags and entities → the text that they show, with pauses where they end a line.

Rules rather than a Markdown parser, which would take `5*3=15, 2*4=8` for emphasis, and drop numbers
of lists and definitions. Every rule takes linear time.
"""

import regex

from app.text.inline import strip_inline
from app.text.patterns import pattern
from app.text.pauses import LINE_END
from app.text.tags import Keep, decode_entities, strip_tags
from app.text.visible import visible


def strip_markup(text: str, dropped: list[str]) -> str:
    """What `text` says, for `cleaning`. `text` is visible; `dropped` receives what is lost."""
    kept: list[str] = []

    def keep(literal: str) -> str:
        kept.append(literal)
        return f"\ufdd0{len(kept) - 1}\ufdd1"

    def restore(text: str) -> str:
        return _KEPT.sub(lambda match: kept[int(match[1])], text)

    lost: list[str] = []
    text = text.translate(dict.fromkeys(map(ord, "\ufdd0\ufdd1")))
    text = _keep_code_blocks(text, keep, lost)
    text = _LITERAL.sub(lambda literal: keep(_content(literal)), text)
    text = strip_tags(text, keep, lost)
    labels: set[str] = set()
    text = _strip_blocks(_LINE_BREAK.split(text), labels, lost)
    text = strip_inline(text, labels, lost)
    dropped += map(restore, lost)
    return restore(visible(decode_entities(text)))


def _keep_code_blocks(text: str, keep: Keep, lost: list[str]) -> str:
    """Keep the lines of fenced code as they are; drop the fences with the language."""
    lines, fence = [], ""
    for line in _LINE_BREAK.split(text):
        opening = _FENCE.match(line)
        if fence and line.strip().startswith(fence) and not line.strip().strip(fence[0]):
            fence = ""
            lines.append("")
        elif not fence and opening:
            fence = opening["fence"]
            lost += filter(None, [opening["language"].strip()])
            lines.append("")
        elif fence and line.strip():
            lines.append(f"{LINE_END}{keep(line.strip())}{LINE_END}")
        else:
            lines.append(line)
    return "\n".join(lines)


def _content(literal: regex.Match[str]) -> str:
    code = literal["code"] or literal["quoted"]
    return code.strip() if code else literal["escaped"] or literal["address"]


# --- Blocks -----------------------------------------------------------------------------------


def _strip_blocks(lines: list[str], labels: set[str], lost: list[str]) -> str:
    """Strip quotes, headings, rules, lists, tables and definitions, whose `labels` are added."""
    shown: list[str] = []
    in_table = in_item = False
    for quoted in lines:
        if not quoted.strip():
            shown.append("")
            in_table = in_item = False
            continue
        line = _CALLOUT.sub(r"\1", _QUOTE.sub("", quoted))
        in_item = bool(_ITEM.match(line)) or (in_item and line.startswith(("  ", "\t")))
        in_table = (in_table and "|" in line) or _is_table_rule(line)
        if definition := _DEFINITION.match(line):
            labels.add(definition["label"].lower())
            lost.append(definition["address"])
        elif _is_table_rule(line):
            shown += [_row(shown.pop())] if shown else []
        elif in_table or _ROW.match(line):
            shown.append(_row(line))
        elif _RULE.match(line):
            shown.append("")
        elif heading := _HEADING.match(line):
            shown += ("", _CLOSING_MARKS.sub("", heading["text"]), "")
        elif in_item and not _ITEM.match(line) and line.strip():
            shown[-1] += f" {line.strip()}"
        else:
            shown.append(_HARD_BREAK.sub(LINE_END, _ITEM.sub(_item, _FOOTNOTE.sub("", line))))
    return "\n".join(shown)


def _is_table_rule(line: str) -> bool:
    return "|" in line and "-" in line and not line.strip("|:-+ \t")


def _row(line: str) -> str:
    cells = (cell.strip() for cell in line.strip(f"{LINE_END} \t").strip("|").split("|"))
    return LINE_END + ", ".join(filter(None, cells)) + LINE_END


def _item(match: regex.Match[str]) -> str:
    return LINE_END + (match["number"] or "")


_KEPT = pattern("\ufdd0([0-9]+)\ufdd1")
_LINE_BREAK = pattern(r"\r\n|[\n\r\v\f\x85]")
_FENCE = pattern(r"\s{0,9}(?:>\s?)*+(?P<fence>`{3,}+|~{3,}+)(?P<language>[^`]*+)$")
_LITERAL = pattern(
    r"(?<!`)`(?!`)(?P<code>[^`\n]++)`(?!`)"
    r"|(?<!`)``(?!`)(?P<quoted>(?:[^`\n]|`(?!`))++)``(?!`)"
    r"|\\(?P<escaped>[!-/:-@\[-`{-~])"
    r"|(?P<address>\b(?:https?|ftp)://[^\s<>()\[\]*`\"|]++)"
)
_QUOTE = pattern(r"^\s{0,9}(?:>\s?)++")
_CALLOUT = pattern(r"^\s{0,3}\[!(\w++)\]")
_DEFINITION = pattern(
    r"\s{0,3}\[(?P<label>[^\^\[\]][^\[\]]*+)\]:\s++(?P<address>(?:\ufdd0|[/.#]|www\.|mailto:)\S*+)"
)
_FOOTNOTE = pattern(r"^\s{0,3}\[\^[^\[\]]++\]:")
_ROW = pattern(r"\s*+\|.*\|\s*$")
_RULE = pattern(r"\s*+([-*_=~])(?:[ \t]*+\1){2,}+\s*+$")
_HEADING = pattern(r"\s{0,3}#{1,6}+[ \t]++(?P<text>.*)$")
_CLOSING_MARKS = pattern(r"(?<=\s)#+\s*+$")
_ITEM = pattern(
    r"^\s*+(?:(?:[-*•‣◦▪▫●○■□∙·➢➤–—]|\+(?!\s*\d))\s++(?:\[[ xX]\]\s++)?"
    r"|(?P<number>\(?[0-9]{1,9}[.)]\s)\s*+(?:\[[ xX]\]\s++)?)"
)
_HARD_BREAK = pattern(r"(?<=\S)(?:\\|[ ]{2,})$")
