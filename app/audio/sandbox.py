"""Decoding of untrusted audio files in a restricted child process, `audio.decoder_main`.

A media parser is a large attack surface, and a text named `.wav` may be a playlist that makes
FFmpeg open other files. So the master never parses a file: a child does, with the file as its
standard input and the result as its standard output. It has limits on time, memory, output and
open files, none of the master's environment, and reports only through its exit status.
"""

import asyncio
import errno
import json
import logging
import os
import signal
import stat
import sys
from asyncio.subprocess import Process
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from uuid import uuid4

from app.audio.decode_limits import DecodeLimits, ExitStatus
from app.core.errors import StorageFull, UnusableAudio

if TYPE_CHECKING:
    from app.core.audio import Samples

log = logging.getLogger(__name__)


KILL_S = 5.0
"""A killed decoder that has not exited by then is left behind: it waits for a disk."""


class DecoderKilled(UnusableAudio):
    """The decoder was killed by a limit or ran out of memory; a retry may succeed."""


def open_media(path: Path) -> BinaryIO:
    """Open a regular file, without following a symlink. Raises OSError."""
    # O_NONBLOCK because the open of a FIFO would wait for its writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    raise OSError(errno.EINVAL, "it is not a regular file", str(path))


async def decode_file(source: Path, target: Path, limits: DecodeLimits | None = None) -> None:
    """Open `source` and `decode` it."""
    with open_media(source) as media:
        await decode(media, target, limits)


async def decode(media: BinaryIO, target: Path, limits: DecodeLimits | None = None) -> None:
    """Decode a file into `target`, which appears complete or not at all, for its owner only.

    Raises UnusableAudio with the reason, StorageFull, and OSError if `target` cannot be written or
    no process can be started.
    """
    limits = limits or DecodeLimits()
    partial = target.with_name(f".{target.name}.{uuid4().hex}")
    try:
        with open(partial, "xb", opener=_private) as result:  # noqa: ASYNC230 - does not wait
            status = await _run_child(media, result, limits)
        _raise_for_status(status, limits)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def load_decoded(path: Path) -> tuple["Samples", int]:
    """Read a file that `decode_file` wrote: float32 [n] mono within ±1, sample rate in Hz."""
    import numpy as np  # which the master does not need to start

    stored = np.fromfile(path, "<f4")
    if not stored.size:
        raise OSError(errno.EIO, "it is empty", str(path))
    return stored[1:], int(stored[:1].view("<u4")[0])


def prepared_path(decoded: Path) -> Path:
    """Where a worker may keep what its engine computes from a decoded voice, as long as that."""
    return decoded.with_suffix(".prepared")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, mode=0o600)


async def _start_child(media: BinaryIO, result: BinaryIO, limits: DecodeLimits) -> Process:
    """Raises OSError if the system has no process, thread or descriptor left for it."""
    try:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-E", "-s", "-m", "app.audio.decoder_main"),
            json.dumps(asdict(limits)),
            stdin=media,
            stdout=result,
            stderr=asyncio.subprocess.DEVNULL,
            cwd=Path(__file__).parents[2],  # so that `-m` finds the module
            env={"OPENBLAS_NUM_THREADS": "1"},  # otherwise numpy starts a thread per core
        )
    except RuntimeError as error:  # asyncio's own thread, which waits for the child
        raise OSError(errno.EAGAIN, str(error)) from error


async def _run_child(media: BinaryIO, result: BinaryIO, limits: DecodeLimits) -> int:
    """Returns the exit status, negative for a signal. The child is killed with the call."""
    child = await _start_child(media, result, limits)
    try:
        async with asyncio.timeout(limits.wall_s):
            return await child.wait()
    except TimeoutError:
        return -signal.SIGKILL
    finally:
        if child.returncode is None:
            child.kill()
            with suppress(TimeoutError):
                await asyncio.wait_for(child.wait(), KILL_S)


def _raise_for_status(status: int, limits: DecodeLimits) -> None:
    if status == ExitStatus.DONE:
        return
    if status == ExitStatus.DISK_FULL:
        raise StorageFull("There is no space left for the decoded voice.")
    reason = next((refused.reason for refused in ExitStatus if refused == status), "")
    if reason:
        message = f"The file cannot be used: {reason.format(**asdict(limits))}."
        raise UnusableAudio(message, param="file")
    log.warning("decoder ended with status %d", status)
    raise DecoderKilled(
        "The file cannot be used: decoding it failed or took too long.", param="file"
    )
