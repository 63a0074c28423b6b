"""The sizes that a Matroska or WebM file states, by which `completeness` sees if it is cut off."""

import os
from typing import BinaryIO

_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_MAX_EBML_HEADER_BYTES = 1000


def find_segment(media: BinaryIO) -> tuple[int, int]:
    """Where the content of the file starts, and its stated size in bytes; 0 if that is unknown."""
    media.seek(0)
    if media.read(4) != _EBML:
        return 0, 0
    media.read(min(_element_size(media), _MAX_EBML_HEADER_BYTES))
    if media.read(4) != _SEGMENT:
        return 0, 0
    size = _element_size(media)
    return media.tell(), size


def _element_size(media: BinaryIO) -> int:
    """The leading zeros of a size are as many as its further bytes. 0 if it is unknown."""
    first = media.read(1) or b"\0"
    further = 8 - first[0].bit_length()
    highest = (1 << 7 * (further + 1)) - 1
    size = int.from_bytes(first + media.read(further), "big") & highest
    return 0 if size == highest else size


def ends_with_an_element(media: BinaryIO, at: int) -> bool:
    """Whether the last element from `at` on is complete."""
    end = os.fstat(media.fileno()).st_size
    while at < end:
        media.seek(at)
        name = media.read(1)
        media.seek(8 - name[0].bit_length(), os.SEEK_CUR)
        size = _element_size(media)
        at = media.tell() + size  # an element of unknown size: read its content next
    return at == end
