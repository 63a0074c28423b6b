"""Markdown within a line: links, footnotes, emphasis."""

import regex

from app.text.latex import strip_commands
from app.text.patterns import pattern


def strip_inline(text: str, labels: set[str], lost: list[str]) -> str:
    """What `text` says, without its marks. `labels` of links are defined; `lost` gets addresses.

    Emphasis is read more strictly than by CommonMark: marks between letters or digits are text, as
    in `5*3=15` and `snake_case`.
    """

    def show_link(link: regex.Match[str]) -> str:
        lost.append(link["address"])
        return str(link["text"])

    def show_reference(link: regex.Match[str]) -> str:
        is_defined = (link["label"] or link["text"]).lower() in labels
        return str(link["text"] if is_defined else link[0])

    for _ in range(2):  # an image may be the text of a link
        text = _LINK.sub(show_link, text)
    text = _REFERENCE.sub(show_reference, text) if labels else text
    text = _CITATION.sub(" ", _NOTE_OR_MARK.sub("", text))
    text = strip_commands(_MATHS.sub(lambda match: match["text"], text))
    text = _LOWERED.sub(lambda match: match["digits"], text)
    text = _BOLD.sub(lambda match: match["text"], text)
    text = _MARKS.sub(lambda run: "*" if len(run[0]) % 2 and run[0][0] == "*" else "", text)
    for emphasis in (_EMPHASIS, _HIGHLIGHT):
        text = emphasis.sub(lambda match: match["text"], text)
    return str(_HALF_EMPHASIS.sub("", text))


_LINK = pattern(
    r"(?<!\w)!?\[(?P<text>(?:[^\[\]]|\[[^\[\]]*+\])*+)\]"
    r"\((?P<address><[^<>\n]*+>|[^()\s<]*+(?:\([^()\s]*+\)[^()\s]*+)*+)(?:\s++(?:\"[^\"]*+\"|'[^']*+'))?\s*+\)"
)
_REFERENCE = pattern(r"(?<!\w)!?\[(?P<text>[^\[\]]++)\](?:\[(?P<label>[^\[\]]*+)\])?")
_NOTE_OR_MARK = pattern(r"\[\^[^\[\]\s]++\]|`|\$\$")
_CITATION = pattern(r"【[^【】†]*+†[^【】]*+】")

_MATHS = pattern(
    r"(?<![\w$])\$(?=[^\s$])(?=[A-Za-z]\$|[^$\n]*[\\\^_={}])(?P<text>[^$\n]++)(?<=\S)\$(?![\w$])"
)
_LOWERED = pattern(r"(?<=[\w)])~(?P<digits>[0-9]{1,3})~")
_BOLD = pattern(r"(?<![A-Za-z0-9*])\*\*(?=[^\s*])(?P<text>[^*\n]++)(?<=\S)\*\*(?!\*)")
# The runs of two and more marks need no partner: clients cut texts into pieces.
_MARKS = pattern(
    r"(?<![A-Za-z0-9*])\*{2,}+(?=\S)|(?<=[^\s*])\*{2,}+(?![A-Za-z0-9*])"
    r"|(?<=[A-Za-z]{2})\*\*(?=[A-Za-z])|(?<!\S)\*{3,}+(?!\S)"
    r"|(?<!\w)_{2,}+(?=\S)|(?<=[^\s_])_{2,}+(?!\w)|(?<!\S)_{3,}+(?!\S)"
    r"|(?<!\w)~~(?=\S)|(?<=[^\s~])~~(?!\w)"
)
_INSIDE = r"[^\n{0}]|\n(?!\n)"
_EMPHASIS = pattern(
    rf"(?<![A-Za-z0-9*])\*(?=\S)(?P<text>(?:{_INSIDE.format('*')}|(?<=\d )\*(?= \d))++)"
    r"(?<=\S)\*(?![A-Za-z0-9*])"
    rf"|(?<!\w)_(?=\S)(?P<text>(?:{_INSIDE.format('_')}|(?<=\w)_(?=\w))++)(?<=\S)_(?!\w)"
)
_HALF_EMPHASIS = pattern(r"(?<![^\s\"'“‘])\*(?=\p{L})|(?<=[.!?,;:])\*(?!\S)")
_HIGHLIGHT = pattern(r"(?<![\w=])==(?=[^\s=])(?P<text>[^=\n]++)(?<=\S)==(?![\w=])")
