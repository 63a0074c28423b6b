"""Voice ids: which file names are valid, and how names are compared."""

from app.core.errors import InvalidVoiceId
from app.core.unicode import MAX_DECOMPOSITION, nfc

ENDINGS = (".wav", ".mp3", ".flac", ".ogg", ".m4a", ".webm", ".opus")
MAX_ID_LENGTH = 128
MAX_NAME_LENGTH = MAX_ID_LENGTH * MAX_DECOMPOSITION
"""No longer name can be another form of an id, so none is looked up."""

MAX_FILE_NAME_BYTES = 255


def validate_voice_id(name: str) -> str:
    """`name` in NFC; raises InvalidVoiceId unless it may be the name of a voice file."""
    voice_id = nfc(name[:MAX_NAME_LENGTH])
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
            param="file",
        )
    return voice_id


def casefold_key(name: str) -> str:
    """Equal for names that differ at most in case and Unicode form."""
    return nfc(nfc(name).casefold())


def _is_allowed(character: str) -> bool:
    return character.isalnum() or character in " ._-"
