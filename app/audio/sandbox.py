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

from app.audio.decode_limits import HEADER, DecodeLimits, ExitStatus
from app.core.errors import StorageFull, UnusableAudio
from app.core.running_time import timeout

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
    """Open `source` and `decode` it into `target`, a new file, which is removed on failure."""
    with open_media(source) as media, open(target, "xb") as result:  # noqa: ASYNC230 - own disk
        try:
            await decode(media, result, limits)
        except BaseException:
            target.unlink()  # noqa: ASYNC240
            raise


async def decode(media: BinaryIO, result: BinaryIO, limits: DecodeLimits | None = None) -> None:
    """Decode a file into the empty file `result`.

    Raises UnusableAudio with the reason, StorageFull, and OSError if no process can be started.
    """
    limits = limits or DecodeLimits()
    _raise_for_status(await _run_child(media, result, limits), limits)


def is_complete(path: str | Path) -> bool:
    """Whether a file that `decode` wrote has all its samples. Raises OSError."""
    with open(path, "rb") as file:
        header = file.read(HEADER.size)
        size = os.fstat(file.fileno()).st_size
    return len(header) == HEADER.size and size == HEADER.size + 4 * HEADER.unpack(header)[1]


def load_decoded(path: Path) -> tuple["Samples", int]:
    """Read a file that `decode` wrote: float32 [n] mono within ±1, sample rate in Hz."""
    import numpy as np  # which the master does not need to start

    if not is_complete(path):
        raise OSError(errno.EIO, "it is cut off", str(path))
    with open(path, "rb") as file:
        rate, _ = HEADER.unpack(file.read(HEADER.size))
        return np.fromfile(file, "<f4"), rate


def prepared_path(decoded: Path) -> Path:
    """Where workers may keep what their engines compute from a decoded voice, as long as that.

    `a.prepared` of a voice `a`; with a model's name before the suffix, for that model alone.
    """
    return decoded.with_suffix(".prepared")


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
        async with timeout(limits.wall_s):
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
        raise StorageFull("There is no space left for the decoded audio.")
    reason = next((refused.reason for refused in ExitStatus if refused == status), "")
    if reason:
        message = f"The file cannot be used: {reason.format(**asdict(limits))}."
        raise UnusableAudio(message, param="file")
    log.warning("decoder ended with status %d", status)
    raise DecoderKilled(
        "The file cannot be used: decoding it failed or took too long.", param="file"
    )
