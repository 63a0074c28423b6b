"""Voice ids: which file names are valid, and how names are compared."""

import binascii
import re
from base64 import b64decode
from html import unescape
from quopri import decodestring
from urllib.parse import unquote_to_bytes

from app.core.errors import InvalidVoiceId
from app.core.unicode import MAX_DECOMPOSITION, nfc

ENDINGS = (".wav", ".mp3", ".flac", ".ogg", ".m4a", ".webm", ".opus")
MAX_ID_LENGTH = 128
MAX_NAME_LENGTH = MAX_ID_LENGTH * MAX_DECOMPOSITION
"""No longer name can be another form of an id, so none is looked up."""

MAX_FILE_NAME_BYTES = 255
MAX_ENCODED_LENGTH = 4096

_ENCODED_WORD = re.compile(
    r"=\?(?:utf-?8|iso-8859-1|us-ascii)\?([bq])\?([!->@-~]*)\?=(?:\s+(?==\?))?", re.IGNORECASE
)


def decode_file_name(name: str) -> str:
    """Decode `name` once, from RFC 2047, HTML's character references or percent-encoding.

    No voice id contains the characters that begin any of these.
    """
    if len(name) > MAX_ENCODED_LENGTH:
        return name
    if "=?" in name:
        return _ENCODED_WORD.sub(_decoded_word, name)
    if "&#" in name:
        return unescape(name)
    return _utf8_or_latin1(unquote_to_bytes(name)) if "%" in name else name


def _decoded_word(word: re.Match[str]) -> str:
    kind, text = word.groups()
    try:
        content = b64decode(text + "==") if kind in "bB" else decodestring(text, header=True)
    except binascii.Error:
        return word[0]
    return _utf8_or_latin1(content)


def _utf8_or_latin1(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1")


def validate_voice_id(name: str, *, param: str = "file") -> str:
    """`name` in NFC; raises InvalidVoiceId unless it may be the name of a voice file."""
    voice_id = nfc(name[:MAX_NAME_LENGTH])
    if not voice_id.lower().endswith(ENDINGS) and len(name) <= MAX_ID_LENGTH:
        raise InvalidVoiceId(
            f"{voice_id!r} is not the name of a sound file, which ends in one of "
            f"{' '.join(ENDINGS)}.",
            param=param,
        )
    if (
        len(name) > MAX_NAME_LENGTH
        or len(voice_id) > MAX_ID_LENGTH
        or len(voice_id.encode(errors="replace")) > MAX_FILE_NAME_BYTES
        or voice_id.startswith(".")
        or not voice_id.lower().endswith(ENDINGS)
        or not all(map(_is_allowed, voice_id))
    ):
        refused = next((each for each in voice_id if not _is_allowed(each)), None)
        raise InvalidVoiceId(
            f"A voice id has at most {MAX_ID_LENGTH} letters, digits, spaces and . _ -"
            + (f", no {refused!a}" if refused else "")
            + f"; it does not start with a dot, and ends in one of {' '.join(ENDINGS)}.",
            param=param,
        )
    return voice_id


def with_ending(name: str, other: str) -> str:
    """`name`, with the ending of the id `other` if it has none."""
    return name if name.lower().endswith(ENDINGS) else name + _ending_of(other)


def renamed(voice_id: str, name: str, *, param: str = "file") -> str:
    """The id of a voice that gets another name; its file stays of the same kind.

    Raises InvalidVoiceId, also for another ending than that of `voice_id`.
    """
    new_id = validate_voice_id(with_ending(name, voice_id), param=param)
    ending = _ending_of(voice_id)
    if _ending_of(new_id).lower() != ending.lower():
        raise InvalidVoiceId(
            f"The new name of {voice_id!r} ends in {ending}, or has no ending: renaming a file "
            "does not convert it.",
            param=param,
        )
    return new_id


def casefold_key(name: str) -> str:
    """Equal for names that differ at most in case and Unicode form."""
    return nfc(nfc(name).casefold())


def _ending_of(voice_id: str) -> str:
    return "." + voice_id.rpartition(".")[2]


def _is_allowed(character: str) -> bool:
    return character.isalnum() or character in " ._-"
