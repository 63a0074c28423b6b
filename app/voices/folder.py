"""A folder of voice files: its listing and every change to it.

Blocking and stateless; the library calls it on one thread, a `BlockingThread`. The folder may be
shared with other masters (a network volume), so nothing here relies on an earlier listing.
Listings name files by their path, as text: there may be thousands.
"""

import errno
import hashlib
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from app.audio.sandbox import open_media
from app.core.errors import PayloadTooLarge, UnusableAudio, VoiceExists
from app.core.private_file import private_opener
from app.core.unicode import nfc
from app.voices.names import casefold_key

_TEMP_PREFIX = ".upload-"
_STALE_S = 3600.0  # a younger temporary file may be another master's, still being written
_BLOCK_BYTES = 1 << 20
_MAX_FILE_BYTES = 1 << 30  # no upload can be larger


ABSENT, READ_ONLY = "does not exist", "cannot be written"
CURES = {ABSENT: "make it", READ_ONLY: "let the user of the service write to it"}
"""Of a folder's problems."""

Signature = str
"""Tells two versions of a file apart without reading them. As text, thousands of signatures at each
scan cause no garbage collection."""


def signature_of(path: str | Path) -> Signature:
    """The signature of the file; of a symlink, its own. Raises OSError."""
    stat = os.lstat(path)
    return f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ino}"


def is_unchanged(path: str, signature: Signature) -> bool:
    try:
        return signature_of(path) == signature
    except OSError:
        return False


def digest_of(path: str) -> str:
    """SHA-256 of the file's bytes, hexadecimal.

    Raises OSError, also if it is not a regular file, and UnusableAudio if it is too large.
    """
    digest = hashlib.sha256()
    with open_media(Path(path)) as file:
        if os.fstat(file.fileno()).st_size > _MAX_FILE_BYTES:
            raise UnusableAudio("The file cannot be used: it is larger than 1 GB.", param="file")
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


class VoiceFolder:
    """One folder. Every method may raise OSError; a folder that does not exist is empty."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def files(self) -> dict[str, Signature]:
        """All regular files except hidden ones and the README; symlinks are not followed."""
        found: dict[str, Signature] = {}
        try:
            entries = os.scandir(self.path)
        except FileNotFoundError:
            return {}
        with entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name == "README.md":
                    continue
                with suppress(FileNotFoundError):  # removed after it was listed
                    if entry.is_file(follow_symlinks=False):
                        found[entry.path] = signature_of(entry.path)
        return found

    def problem(self, *, written: bool) -> str:
        """Why the folder has no voices, or cannot be `written`; empty if there is no problem."""
        if not self.path.exists():
            return ABSENT
        if written and not os.access(self.path, os.W_OK | os.X_OK):
            return READ_ONLY
        return ""

    def new_temp(self) -> Path:
        return self.path / f"{_TEMP_PREFIX}{uuid4().hex}"

    def receive(self, content: BinaryIO, temp: Path, max_bytes: int) -> str:
        """Write `content` to `temp`, sync it, return its digest. Raises PayloadTooLarge."""
        self.path.mkdir(parents=True, exist_ok=True)
        digest, size = hashlib.sha256(), 0
        with open(temp, "xb", opener=private_opener) as file:
            while block := content.read(_BLOCK_BYTES):
                size += len(block)
                if size > max_bytes:
                    raise PayloadTooLarge(
                        f"A voice file may have at most {max_bytes:,} bytes (MAX_UPLOAD_MB).",
                        param="file",
                    )
                digest.update(block)
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        return digest.hexdigest()

    def ensure_free(self, voice_id: str) -> None:
        """Raise VoiceExists if there is a file of this name, ignoring case."""
        for taken in self._alike(voice_id):
            raise _exists(taken.name)

    def create_exclusive(self, temp: Path, voice_id: str) -> None:
        """Rename `temp` unless another master takes the name first. Raises VoiceExists."""
        self.ensure_free(voice_id)
        try:
            _move_to_free_name(temp, self.path / voice_id)
        except FileExistsError as taken:
            raise _exists(voice_id) from taken

    def replace(self, temp: Path, voice_id: str) -> None:
        """Replace all files of this name, ignoring case, by `temp`."""
        final = self.path / voice_id
        alike = self._alike(voice_id)
        temp.replace(final)
        for other in alike:
            # Where the file system ignores case, another spelling is the new file itself.
            if other.exists() and not other.samefile(final):
                other.unlink()

    def remove(self, voice_id: str) -> bool:
        """Remove the file of this id, in any Unicode form. Returns False if there was none."""
        removed = False
        for path in self._alike(voice_id):
            if nfc(path.name) == voice_id:
                path.unlink()
                removed = True
        return removed

    def rename(self, voice_id: str, new_id: str) -> bool:
        """Rename the file of this id; returns False if there is none. Raises VoiceExists."""
        old = next((path for path in self._alike(voice_id) if nfc(path.name) == voice_id), None)
        if old is None:
            return False
        for taken in self._alike(new_id):
            if taken != old:
                raise _taken(taken.name)
        final = self.path / new_id
        if casefold_key(voice_id) == casefold_key(new_id):
            old.rename(final)
            return True
        try:
            _move_to_free_name(old, final)
        except FileExistsError as taken:
            raise _taken(new_id) from taken
        return True

    def open(self, voice_id: str) -> BinaryIO | None:
        """Open the file of this id, in any Unicode form; None if there is none."""
        for path in self._alike(voice_id):
            if nfc(path.name) == voice_id:
                return open_media(path)
        return None

    def discard(self, temp: Path) -> None:
        with suppress(OSError):
            temp.unlink()

    def discard_stale(self) -> None:
        for temp in self.path.glob(f"{_TEMP_PREFIX}*"):
            with suppress(OSError):
                if time.time() - temp.lstat().st_mtime > _STALE_S:
                    temp.unlink()

    def _alike(self, voice_id: str) -> list[Path]:
        key = casefold_key(voice_id)
        names = (os.path.basename(path) for path in self.files())
        return [self.path / name for name in names if casefold_key(name) == key]


def _exists(name: str) -> VoiceExists:
    return VoiceExists(
        f"There is a voice {nfc(name)!r} already. POST /voices?replace=true replaces it.",
        param="file",
    )


def _taken(name: str) -> VoiceExists:
    return VoiceExists(f"There is a voice {nfc(name)!r} already.", param="voice_id")


def _move_to_free_name(temp: Path, final: Path) -> None:
    """Raises FileExistsError if `final` exists, even if another process removes it right after."""
    try:
        os.link(temp, final)
        temp.unlink()
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        # A file system without hard links: claim the name, then put the file over the claim.
        os.close(os.open(final, os.O_CREAT | os.O_EXCL, mode=0o600))
        temp.replace(final)
