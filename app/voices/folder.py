"""A folder of voice files: who may be in it, what is in it, and every change to it.

Blocking, without memory; `voices.VoiceLibrary` calls it on its one file thread. The folder may be
shared with other masters (a network volume), so nothing here trusts an earlier look.
"""

import errno
import hashlib
import os
import time
import unicodedata
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple
from uuid import uuid4

from app.core.errors import InvalidVoiceId, PayloadTooLarge, VoiceExists

ENDINGS = (".wav", ".mp3", ".flac", ".ogg", ".m4a", ".webm", ".opus")

MAX_ID_LENGTH = 128
"""In characters."""

_TEMP_PREFIX = ".upload-"
_STALE_S = 3600.0  # a younger temporary file may be another master's, still being written
_BLOCK_BYTES = 1 << 20


class Signature(NamedTuple):
    """Tells two versions of a file apart without reading them."""

    size: int
    mtime_ns: int
    inode: int


def nfc(name: str) -> str:
    """The form in which ids are compared and listed (NFC)."""
    return unicodedata.normalize("NFC", name)


def validate_voice_id(name: str) -> str:
    """`name` in its nfc form; raises InvalidVoiceId unless a voice file may be called so."""
    voice_id = nfc(name)
    if (
        len(voice_id) > MAX_ID_LENGTH
        or len(voice_id.encode(errors="replace")) > 255  # all that a file name may have
        or voice_id.startswith(".")
        or not voice_id.lower().endswith(ENDINGS)
        or not all(map(_may_be_in_an_id, voice_id))
    ):
        odd = next((each for each in voice_id if not _may_be_in_an_id(each)), None)
        raise InvalidVoiceId(
            f"A voice id has at most {MAX_ID_LENGTH} letters, digits, spaces and . _ -"
            + (f", no {odd!a}" if odd else "")
            + f"; it does not start with a dot, and ends in one of {' '.join(ENDINGS)}.",
            param="file",
        )
    return voice_id


def _may_be_in_an_id(character: str) -> bool:
    return character.isalnum() or character in " ._-"


def casefold_key(name: str) -> str:
    """The same for names that differ at most in case and Unicode form."""
    return nfc(nfc(name).casefold())


def signature_of(path: Path) -> Signature:
    """Of the file itself, should it be a symlink. Raises OSError."""
    stat = path.lstat()
    return Signature(stat.st_size, stat.st_mtime_ns, stat.st_ino)


def is_unchanged(path: Path, signature: Signature) -> bool:
    """Whether this version of the file is still there."""
    try:
        return signature_of(path) == signature
    except OSError:
        return False


def digest_of(path: Path) -> str:
    """SHA-256 of the file's bytes, hexadecimal. Raises OSError, for a symlink too."""
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class VoiceFolder:
    """One folder. Every method may raise OSError; a folder that does not exist is empty."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def files(self) -> dict[Path, Signature]:
        """All regular files but hidden ones and the README; symlinks are not even looked at."""
        found = {}
        try:
            entries = os.scandir(self.path)
        except FileNotFoundError:
            return {}
        with entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name == "README.md":
                    continue
                with suppress(FileNotFoundError):  # removed since it was listed
                    if entry.is_file(follow_symlinks=False):
                        found[self.path / entry.name] = signature_of(self.path / entry.name)
        return found

    def trouble(self, *, written: bool) -> str:
        """Why nothing is found here, or nothing can be `written`; empty if all is well."""
        if not self.path.exists():
            return "does not exist"
        if written and not os.access(self.path, os.W_OK | os.X_OK):
            return "cannot be written"
        return ""

    def new_temp(self) -> Path:
        """A name on the same file system, hidden, and of its own."""
        return self.path / f"{_TEMP_PREFIX}{uuid4().hex}"

    def receive(self, content: BinaryIO, temp: Path, max_bytes: int) -> str:
        """Write `content` to `temp` and to the disk; its digest. Raises PayloadTooLarge."""
        self.path.mkdir(parents=True, exist_ok=True)
        digest, size = hashlib.sha256(), 0
        with open(temp, "xb", opener=_private) as file:
            while block := content.read(_BLOCK_BYTES):
                size += len(block)
                if size > max_bytes:
                    raise PayloadTooLarge(
                        f"A voice file may have at most {max_bytes:,} bytes.", param="file"
                    )
                digest.update(block)
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        return digest.hexdigest()

    def ensure_free(self, voice_id: str) -> None:
        """Raise VoiceExists if a file is called so, or alike."""
        for taken in self._alike(voice_id):
            raise _exists(taken.name)

    def create_exclusive(self, temp: Path, voice_id: str) -> None:
        """Give `temp` its name, which no other master can take meanwhile. Raises VoiceExists."""
        self.ensure_free(voice_id)
        try:
            _move_to_free_name(temp, self.path / voice_id)
        except FileExistsError as taken:
            raise _exists(voice_id) from taken

    def replace(self, temp: Path, voice_id: str) -> None:
        """Give `temp` its name in place of all files that are called so, or alike."""
        final = self.path / voice_id
        alike = self._alike(voice_id)
        temp.replace(final)
        for other in alike:
            # Where the file system ignores case, another spelling is the new file itself.
            if other.exists() and not other.samefile(final):
                other.unlink()

    def remove(self, voice_id: str) -> bool:
        """Remove the file of this id, in whichever Unicode form; whether there was one."""
        removed = False
        for path in self._alike(voice_id):
            if nfc(path.name) == voice_id:
                path.unlink()
                removed = True
        return removed

    def discard(self, temp: Path) -> None:
        """Remove `temp` if it is there and can be removed."""
        with suppress(OSError):
            temp.unlink()

    def discard_stale(self) -> None:
        """Remove what uploads of crashed masters left behind."""
        for temp in self.path.glob(f"{_TEMP_PREFIX}*"):
            with suppress(OSError):
                if time.time() - temp.lstat().st_mtime > _STALE_S:
                    temp.unlink()

    def _alike(self, voice_id: str) -> list[Path]:
        wanted = casefold_key(voice_id)
        return [path for path in self.files() if casefold_key(path.name) == wanted]


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, mode=0o600)


def _exists(name: str) -> VoiceExists:
    return VoiceExists(
        f"There is a voice {nfc(name)!r} already. POST /voices?replace=true replaces it.",
        param="file",
    )


def _move_to_free_name(temp: Path, final: Path) -> None:
    """Raises FileExistsError if `final` exists, were it for a moment only."""
    try:
        os.link(temp, final)
        temp.unlink()
    except OSError as fault:
        if fault.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        # A file system without hard links: claim the name, then put the file over the claim.
        os.close(os.open(final, os.O_CREAT | os.O_EXCL, mode=0o600))
        temp.replace(final)
