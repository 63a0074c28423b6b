"""What is wrong with a body that is no JSON, as programs and shells often send it."""

import re

_UNQUOTED_NAME = re.compile(rb"\s*\{\s*[A-Za-z_]\w*\s*:")
_FORM = re.compile(rb"\s*[A-Za-z_]\w*=")
_FILE = "put the JSON into a file and send it with curl --json @request.json"
_QUOTES = "“”„‟″«»"
MAX_LOOKED_AT = 4096
"""Bytes of the body: a mistake of the shell shows at its beginning."""


def json_hint(body: bytes, example: str) -> str:
    """A sentence that begins with a space; empty if the mistake is of no known kind.

    `example`: a body without a mistake.
    """
    escaped = example.replace('"', r"\"")
    start = body[:MAX_LOOKED_AT].lstrip()
    if not start:
        return f" The body is empty: send JSON, as curl --json '{example}' does."
    if start.startswith(b"'"):
        return (
            " It begins with a single quote, which a Windows shell does not remove: write "
            f'"{escaped}" there, or {_FILE}.'
        )
    if _UNQUOTED_NAME.match(start):
        return (
            " Its double quotes are missing, which a Windows shell removes: write "
            f'"{escaped}" there, or {_FILE}.'
        )
    if re.match(rb"\{\s*\\", start):
        return f" It has backslashes before its quotes, which this shell keeps: {_FILE}."
    if re.match(rb"\{\s*'", start):
        return " Names and text are in double quotes in JSON, not in single ones."
    if _FORM.match(start):
        return f" It looks like a form: send JSON, as curl --json '{example}' does."
    if re.match(rf"\{{\s*[{_QUOTES}]", start.decode(errors="ignore")):
        return ' It has typographic quotes: write plain ones, ".'
    return ""


def not_utf8(error: UnicodeDecodeError) -> str:
    """Say that a body is in another encoding than UTF-8."""
    return (
        f"byte {error.start + 1} is not UTF-8. Another encoding of the text was sent, as shells "
        f"do on Windows: {_FILE}, saved as UTF-8"
    )
