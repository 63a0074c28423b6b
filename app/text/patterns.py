"""Regular expressions over text, compiled alike."""

import regex


def pattern(source: str) -> regex.Pattern[str]:
    """Compile; in version 1 sets can be added and subtracted."""
    return regex.compile(source, regex.V1 | regex.DOTALL)


LINE_BREAK = pattern(r"\r\n|[\n\r\v\f\x85]")
