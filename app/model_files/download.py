"""Download of a model's files from the Hugging Face hub, resumable across processes.

Each file is received as `.NAME.DIGEST.part` beside its place and moved there once its size and
checksum are those of the manifest, whatever a mirror says. The HTTP client is huggingface_hub's;
its own `hf_hub_download` starts a file of 2 GB from the beginning in each process.
"""

import fcntl
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from app.core.errors import DownloadFailed, StartupError
from app.model_files.manifest import ENGLISH, Archive, Checksum, Manifest, file_size, missing

TIMEOUT_S = 30.0
"""For connecting, and for each read."""

Progress = Callable[[str, int, int], None]
"""Called with a file's name, its bytes received so far, and its size in bytes."""


def download(
    folder: Path,
    progress: Progress = lambda name, done, size: None,
    endpoint: str | None = None,
    manifest: Manifest = ENGLISH,
) -> None:
    """Complete `folder`, created if need be; an interrupted download is resumed by the next call.

    Files with the manifest's checksums are kept, others of that name are replaced. `endpoint` is
    the hub's address; None means `HF_ENDPOINT`, or huggingface.co.
    Raises DownloadFailed: hub out of reach, checksum wrong, disk full. Raises StartupError: folder
    not writable, HF_HUB_OFFLINE set, or a file that is not the repository's is missing.
    """
    with _one_line_errors(folder, manifest), _locked(folder):
        published = [*_published(manifest, endpoint), *map(_archived, manifest.archives)]
        outdated = [file for file in published if not file.is_complete(folder, manifest)]
        for file in published:
            if file not in outdated:
                progress(file.name, file.size, file.size)
        _check_space(folder, outdated)
        for file in outdated:
            part = file.part_in(folder)
            _receive(file, part, progress)
            _check(file, part)
            if file.members:
                _extract(file, part, folder, manifest)
            else:
                _place(part, folder / file.name)
    if absent := missing(folder, manifest):
        raise StartupError(
            f"{', '.join(absent)} cannot be fetched, being none of the pinned files: "
            f"put it into {folder.absolute()} yourself"
        )


@dataclass(frozen=True)
class _RemoteFile:
    """A file of the hub, or with `members` an archive that has files of the manifest."""

    name: str
    url: str
    size: int
    sha256: str
    members: tuple[str, ...] = ()

    def is_complete(self, folder: Path, manifest: Manifest) -> bool:
        names = self.members or (self.name,)
        return all(manifest.checksums[name].fits(folder / name) for name in names)

    def part_in(self, folder: Path) -> Path:
        """Path of the partial file; the digest keeps another revision from resuming it."""
        return folder / f".{self.name}.{self.sha256[:12]}.part"


def _archived(archive: Archive) -> _RemoteFile:
    return _RemoteFile(archive.name, archive.url, *archive.checksum, archive.files)


def _published(manifest: Manifest, endpoint: str | None) -> list[_RemoteFile]:
    from huggingface_hub import hf_hub_url

    archived = {name for archive in manifest.archives for name in archive.files}
    return [
        _RemoteFile(
            name,
            hf_hub_url(owner.repository, name, revision=owner.revision, endpoint=endpoint),
            *manifest.checksums[name],
        )
        for name in manifest.files
        if name in manifest.checksums and name not in archived
        for owner in (manifest.borrowed.get(name, manifest),)
    ]


def _receive(file: _RemoteFile, part: Path, progress: Progress) -> None:
    """Append to `part` until it has the file's size; give up after a connection without data."""
    done = file_size(part) or 0
    while done < file.size:
        lost = None
        try:
            _append(file, part, done, progress)
        except httpx.TransportError as error:
            lost = error
        before, done = done, file_size(part) or 0
        if done <= before:
            raise lost or DownloadFailed(f"the hub sends nothing of {file.name}")


def _append(file: _RemoteFile, part: Path, done: int, progress: Progress) -> None:
    """Append what one connection sends from byte `done` on."""
    from huggingface_hub import get_session, hf_raise_for_status
    from huggingface_hub.utils import build_hf_headers

    # Ranges count uncompressed bytes, so compression must be off.
    headers = {"Accept-Encoding": "identity", "Range": f"bytes={done}-"}
    if not file.members:  # the hub's token is for the hub alone
        headers = build_hf_headers() | headers
    with get_session().stream("GET", file.url, headers=headers, timeout=TIMEOUT_S) as response:
        hf_raise_for_status(response)
        if response.headers.get("Content-Type", "").startswith("text/html"):  # a captive portal's
            raise DownloadFailed(
                "what answers in the hub's place sends a web page: open one in a browser to log in "
                "to the network, then repeat the command"
            )
        if response.status_code != httpx.codes.PARTIAL_CONTENT:
            done = 0
        with part.open("ab" if done else "wb") as target:
            for block in response.iter_bytes():
                target.write(block)
                done += len(block)
                progress(file.name, min(done, file.size), file.size)
                if done > file.size:  # longer than announced, perhaps endless
                    return


def _check(file: _RemoteFile, part: Path) -> None:
    if not Checksum(file.size, file.sha256).fits(part):
        part.unlink()
        raise DownloadFailed(
            f"{file.name} arrived damaged (its checksum is not the published one) and was deleted;"
            " try again, and distrust the connection if this repeats"
        )


def _place(part: Path, path: Path) -> None:
    with part.open("rb") as received:
        os.fsync(received.fileno())
    part.replace(path)


def _extract(file: _RemoteFile, part: Path, folder: Path, manifest: Manifest) -> None:
    """Put the members of an archive into their places, and delete it."""
    with zipfile.ZipFile(part) as archive:
        stored = {Path(name).name: name for name in archive.namelist()}
        for name in file.members:
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            extracted = path.with_name(f".{path.name}.part")
            with archive.open(stored[path.name]) as source, extracted.open("wb") as target:
                shutil.copyfileobj(source, target)
            if not manifest.checksums[name].fits(extracted):
                extracted.unlink()
                raise DownloadFailed(f"{name} in {file.name} is not the published file")
            _place(extracted, path)
    part.unlink()


def _check_space(folder: Path, files: list[_RemoteFile]) -> None:
    needed = sum(file.size - (file_size(file.part_in(folder)) or 0) for file in files)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DownloadFailed(
            f"disk full: {folder} has {free / 1e9:.1f} GB left, {needed / 1e9:.1f} GB are to come"
        )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Make the folder, and keep out other processes, which would append to the same partial files.

    Folders that are still empty at the end are removed, if they were made here.
    """
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".download.lock"
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                raise FileNotFoundError
        except (BlockingIOError, FileNotFoundError):  # held, or just deleted by its holder
            raise StartupError(f"another download into {folder} is under way") from None
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            with suppress(OSError):  # it has files
                for each in made:
                    each.rmdir()


@contextmanager
def _one_line_errors(folder: Path, manifest: Manifest) -> Iterator[None]:
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    by_hand = f"or put {', '.join(manifest.files)} into {folder.absolute()} yourself"
    elsewhere = f"set HF_ENDPOINT to a mirror that is in reach, {by_hand}"
    try:
        yield
    except HfHubHTTPError as error:  # an OSError too, so it goes first
        answer = error.response
        raise DownloadFailed(
            f"{answer.url.host} refused {manifest.repository}: "
            f"{answer.status_code} {answer.reason_phrase}; try again later, {elsewhere}"
        ) from error
    except OfflineModeIsEnabled as error:
        raise StartupError(
            f"cannot reach the hub: HF_HUB_OFFLINE is set; remove it, {by_hand}"
        ) from error
    except httpx.RequestError as error:
        host = error.request.url.host
        raise DownloadFailed(
            f"cannot reach {host} ({error}): connect to the network and repeat the command, "
            f"{elsewhere}"
        ) from error
    except OSError as error:
        raise StartupError(f"cannot write to {folder}: {error.strerror}") from error
