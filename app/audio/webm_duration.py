"""Write the duration into the header of a complete WebM file; a streamed one has none."""

import re
import struct

_HEAD = re.compile(
    rb"(?P<seek>\x53\xab\x84\x15\x49\xa9\x66\x53\xac\x81)(?P<position>.)"  # of Info
    rb"(?P<void>.*?\xec\x01\0{6})(?P<void_size>.)\0{7}"
    rb"(?P<info>\0+\x15\x49\xa9\x66)(?P<info_size>.)(?P<fields>.*?)(?=\x16\x54\xae\x6b)",
    re.DOTALL,
)
"""From FFmpeg's table of contents to the tracks (RFC 9559).

Before Info is a Void element, which leaves room for a longer table.
"""

_DURATION = b"\x44\x89\x84"  # a float of 4 bytes
_DURATION_BYTES = 7


def with_duration(head: bytes, milliseconds: float) -> bytes:
    """Return `head`, as long as before: the new field takes the place of padding."""
    return _HEAD.sub(lambda match: _extended(match, milliseconds), head, count=1)


def _extended(match: re.Match[bytes], milliseconds: float) -> bytes:
    def changed(name: str, by: int) -> bytes:
        return bytes([match[name][0] + by])

    return b"".join(
        (
            *(match["seek"], changed("position", -_DURATION_BYTES)),
            *(match["void"], changed("void_size", -_DURATION_BYTES)),
            *(match["info"], changed("info_size", _DURATION_BYTES), match["fields"]),
            *(_DURATION, struct.pack(">f", milliseconds)),
        )
    )
