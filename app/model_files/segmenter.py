"""Download of the model that spacy-pkuseg finds Chinese words with, for Chatterbox Multilingual.

The package itself would fetch it from GitHub into the user's home, when it is first used.
"""

import hashlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import httpx

from app.core.errors import StartupError

NAME = "spacy_ontonotes"
URL = f"https://github.com/explosion/spacy-pkuseg/releases/download/v0.0.26/{NAME}.zip"
SHA256 = "b216e7f92de7ae285aeab8feba2faa8ea8216e5995ff6fb3d391cc8356db1bfe"
"""As the package states it."""

FILES = ("features.msgpack", "weights.npz")
MAX_BYTES = 200_000_000
TIMEOUT_S = 30.0


def download(
    folder: Path,
    progress: Callable[[str, int, int], None] = lambda name, done, size: None,
    url: str = URL,
    sha256: str = SHA256,
) -> None:
    """Put the two files into `folder / NAME`, unless they are there.

    Raises StartupError: out of reach, checksum wrong, folder not writable.
    """
    if all((folder / NAME / name).is_file() for name in FILES):
        return
    try:
        archive = _receive(url, progress)
        if hashlib.sha256(archive).hexdigest() != sha256:
            raise StartupError(
                f"{url} is not the published file, its checksum is another; try again"
            )
        _unpack(archive, folder / NAME)
    except httpx.HTTPError as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise StartupError(
            f"cannot fetch {url}: {reason}; only Chinese needs it, all other files are there"
        ) from error
    except (BadZipFile, KeyError) as error:
        raise StartupError(f"{url} does not hold {' and '.join(FILES)}: {error}") from error
    except OSError as error:
        raise StartupError(f"cannot write to {folder}: {error.strerror}") from error


def _receive(url: str, progress: Callable[[str, int, int], None]) -> bytes:
    content = bytearray()
    with httpx.stream("GET", url, follow_redirects=True, timeout=TIMEOUT_S) as response:
        response.raise_for_status()
        size = int(response.headers.get("Content-Length", 0))
        for block in response.iter_bytes():
            content += block
            progress(NAME, len(content), max(size, len(content)))
            if len(content) > MAX_BYTES:
                break
    return bytes(content)


def _unpack(archive: bytes, folder: Path) -> None:
    """Only the files of these names, wherever they are in the archive."""
    with ZipFile(BytesIO(archive)) as source:
        members = {Path(name).name: name for name in source.namelist()}
        contents = {name: source.read(members[name]) for name in FILES}
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        part = folder / f".{name}.part"
        part.write_bytes(content)
        part.replace(folder / name)
