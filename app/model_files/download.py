"""The five files of the English Chatterbox model in `MODEL_PATH`: which are there, and the others.

`inventory` and `missing` look at a folder; `download` completes it from the Hugging Face hub.
Called by the CLI's `models` command, by the image's build and by whoever chooses an engine.

Files are received beside their places, in `.NAME.DIGEST.part`, and moved there only when size and
checksum are those that the hub states. huggingface_hub is asked for the metadata and lends its
HTTP client; its own `hf_hub_download` starts a file anew in each process, 2 GB or not.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from app.core.errors import StartupError

FILES = ("ve.safetensors", "t3_cfg.safetensors", "s3gen.safetensors", "tokenizer.json", "conds.pt")
OTHER_VARIANTS = {
    "t3_turbo_v1.safetensors": "Chatterbox Turbo",
    "s3gen_meanflow.safetensors": "Chatterbox Turbo",
    "t3_mtl23ls_v2.safetensors": "Chatterbox Multilingual",
    "grapheme_mtl_merged_expanded_v1.json": "Chatterbox Multilingual",
}
"""Models that are none of ours, by a file that only they have."""

REPOSITORY = "ResembleAI/chatterbox"
REVISION = "1b475dffa71fb191cb6d5901215eb6f55635a9b6"

TIMEOUT_S = 30.0
"""For connecting, and for each silence of the server."""

Progress = Callable[[str, int, int], None]
"""Called with a file's name, the bytes of it that are here, and its size in bytes."""


@dataclass(frozen=True)
class WeightFile:
    """One of the five files; `size` in bytes, None where it is missing."""

    name: str
    size: int | None


def inventory(folder: Path) -> list[WeightFile]:
    """All five files, there or not, in the order of `FILES`."""
    return [WeightFile(name, _size(folder / name)) for name in FILES]


def missing(folder: Path) -> list[str]:
    """The names of those that are not there; empty when the model can be loaded."""
    return [file.name for file in inventory(folder) if file.size is None]


def refuse_other_variants(folder: Path) -> None:
    """Raise `StartupError` if `folder` is another model's; others' files beside ours do no harm."""
    if (folder / "t3_cfg.safetensors").exists():
        return
    for name, variant in OTHER_VARIANTS.items():
        if (folder / name).exists():
            raise wrong_variant(folder / name, variant)


def wrong_variant(path: Path, variant: str) -> StartupError:
    """What to raise when `path` turns out to be of `variant`."""
    return StartupError(f"{path} is of {variant}; only the English Chatterbox is supported")


def _silent(name: str, done: int, total: int) -> None:
    pass


def download(folder: Path, progress: Progress = _silent, endpoint: str | None = None) -> None:
    """Complete `folder`, created if need be; whatever stopped it, the next call goes on from there.

    A file that is already what the hub has is kept, any other of that name is replaced.
    `endpoint` is the hub's address; None means `HF_ENDPOINT`, or huggingface.co.
    Raises StartupError: hub out of reach, checksum wrong, disk full, folder not writable.
    """
    with _one_line_errors(folder), _claimed(folder):
        published = _published(endpoint)
        wanted = [file for file in published if not file.is_at(folder / file.name)]
        for file in published:
            if file not in wanted:
                progress(file.name, file.size, file.size)
        _make_sure_of_space(folder, wanted)
        for file in wanted:
            _receive(file, file.part_in(folder), progress)
            _place(file, file.part_in(folder), folder / file.name)


@dataclass(frozen=True)
class _HubFile:
    """A file as the hub describes it; `digest` in hex: SHA-256 if large (LFS), else git's SHA-1."""

    name: str
    url: str
    size: int
    digest: str
    large: bool

    def is_at(self, path: Path) -> bool:
        return _size(path) == self.size and self.digest_of(path) == self.digest

    def digest_of(self, path: Path) -> str:
        """What `digest` would be if `path` were this file: git puts a header before the bytes."""
        if self.large:
            state = hashlib.sha256()
        else:
            state = hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)
        with path.open("rb") as source:
            return hashlib.file_digest(source, lambda: state).hexdigest()

    def part_in(self, folder: Path) -> Path:
        """Where it is received; named by its digest, so that another revision never goes on it."""
        return folder / f".{self.name}.{self.digest[:12]}.part"


def _published(endpoint: str | None) -> list[_HubFile]:
    """What the hub says about the five files at `REVISION`."""
    from huggingface_hub import HfApi, hf_hub_url

    try:
        info = HfApi(endpoint=endpoint).model_info(
            REPOSITORY, revision=REVISION, files_metadata=True, timeout=TIMEOUT_S
        )
    except json.JSONDecodeError as gibberish:  # a hotel's log-in page, say
        raise StartupError("what answers in the hub's place does not speak JSON") from gibberish
    known = {file.rfilename: file for file in info.siblings or ()}
    if absent := [name for name in FILES if name not in known]:
        raise StartupError(f"{REPOSITORY} at {REVISION[:7]} has no {', '.join(absent)}")
    return [
        _HubFile(
            name=name,
            url=hf_hub_url(REPOSITORY, name, revision=REVISION, endpoint=endpoint),
            size=known[name].size,
            digest=known[name].lfs.sha256 if known[name].lfs else known[name].blob_id,
            large=bool(known[name].lfs),
        )
        for name in FILES
    ]


def _receive(file: _HubFile, part: Path, progress: Progress) -> None:
    """Fill `part` up to the file's size, over as many connections as it takes.

    A connection that brought nothing is the last one.
    """
    done = _size(part) or 0
    while done < file.size:
        lost = None
        try:
            _append(file, part, done, progress)
        except httpx.TransportError as error:
            lost = error
        before, done = done, _size(part) or 0
        if done <= before:
            raise lost or StartupError(f"the hub sends nothing of {file.name}")


def _append(file: _HubFile, part: Path, done: int, progress: Progress) -> None:
    """Add to `part` what one connection brings from byte `done` on."""
    from huggingface_hub import get_session, hf_raise_for_status
    from huggingface_hub.utils import build_hf_headers

    # Compressed on the way, the bytes would not be those that a range counts.
    headers = build_hf_headers() | {"Accept-Encoding": "identity", "Range": f"bytes={done}-"}
    with get_session().stream("GET", file.url, headers=headers, timeout=TIMEOUT_S) as response:
        hf_raise_for_status(response)
        if response.status_code != httpx.codes.PARTIAL_CONTENT:
            done = 0
        with part.open("ab" if done else "wb") as target:
            for block in response.iter_bytes():
                target.write(block)
                done += len(block)
                progress(file.name, min(done, file.size), file.size)
                if done > file.size:  # not the file that was announced, and perhaps endless
                    return


def _place(file: _HubFile, part: Path, path: Path) -> None:
    if not file.is_at(part):
        part.unlink()
        raise StartupError(
            f"{file.name} arrived damaged (its checksum is not the hub's) and was deleted;"
            " try again, and distrust the connection if this repeats"
        )
    with part.open("rb") as received:
        os.fsync(received.fileno())
    part.replace(path)


def _make_sure_of_space(folder: Path, wanted: list[_HubFile]) -> None:
    needed = sum(file.size - (_size(file.part_in(folder)) or 0) for file in wanted)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StartupError(
            f"disk full: {folder} has {free / 1e9:.1f} GB left, {needed / 1e9:.1f} GB are to come"
        )


@contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """Two processes appending to the same partial file would spoil it for both."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".download.lock"
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                raise FileNotFoundError
        except (BlockingIOError, FileNotFoundError):  # or it has just ended, and its lock is gone
            raise StartupError(f"another download into {folder} is under way") from None
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


@contextmanager
def _one_line_errors(folder: Path) -> Iterator[None]:
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        yield
    except HfHubHTTPError as refused:  # an OSError too, so it goes first
        answer = refused.response
        raise StartupError(
            f"{answer.url.host} refused {REPOSITORY}: {answer.status_code} {answer.reason_phrase}"
        ) from refused
    except OfflineModeIsEnabled as offline:
        reason = f"cannot reach the hub: HF_HUB_OFFLINE is set; {_by_hand(folder)}"
        raise StartupError(reason) from offline
    except httpx.RequestError as unreachable:
        host = unreachable.request.url.host
        reason = f"cannot reach {host}: {unreachable}; {_by_hand(folder)}"
        raise StartupError(reason) from unreachable
    except OSError as disk:
        raise StartupError(f"cannot write to {folder}: {disk.strerror}") from disk


def _by_hand(folder: Path) -> str:
    return f"or put {', '.join(FILES)} into {folder.absolute()} yourself"


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None
