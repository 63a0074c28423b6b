"""Decoding of untrusted audio files in a restricted child process, `audio.decoder_main`.

A media parser is a large attack surface, and a text named `.wav` may be a playlist that makes
FFmpeg open other files. So the master never parses a file: a child does, with the file as its
standard input and the result as its standard output. It has limits on time, memory, output and
open files, none of the master's environment, and reports only through its exit status.
"""

import asyncio
import json
import logging
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from uuid import uuid4

import numpy as np

from app.audio.decoder_main import DecodeLimits, ExitStatus
from app.core.errors import StorageFull, UnusableAudio

if TYPE_CHECKING:
    from app.core.audio import Samples

log = logging.getLogger(__name__)


class DecoderKilled(UnusableAudio):
    """The decoder was killed by a limit or ran out of memory; a retry may succeed."""


async def decode_file(source: Path, target: Path, limits: DecodeLimits | None = None) -> None:
    """Decode `source` into `target`, which appears complete or not at all.

    Raises UnusableAudio with the reason, StorageFull, and OSError if one of the two files cannot
    be opened (a symlink cannot).
    """
    limits = limits or DecodeLimits()
    partial = target.with_name(f".{target.name}.{uuid4().hex}")
    try:
        with (  # neither open waits
            open(source, "rb", opener=_without_following) as media,  # noqa: ASYNC230
            open(partial, "xb") as result,  # noqa: ASYNC230
        ):
            status = await _run_child(media, result, limits)
        _raise_for_status(status, limits)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def load_decoded(path: Path) -> tuple["Samples", int]:
    """Read a file that `decode_file` wrote: float32 [n] mono within ±1, sample rate in Hz."""
    stored = np.fromfile(path, "<f4")
    return stored[1:], int(stored[:1].view("<u4")[0])


def _without_following(path: str, flags: int) -> int:
    # O_NONBLOCK because the open of a FIFO would wait for its writer.
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


async def _run_child(media: BinaryIO, result: BinaryIO, limits: DecodeLimits) -> int:
    """Returns the exit status, negative for a signal. The child never outlives the call."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-E", "-s", "-m", "app.audio.decoder_main", json.dumps(asdict(limits))),
        stdin=media,
        stdout=result,
        stderr=asyncio.subprocess.DEVNULL,
        cwd=Path(__file__).parents[2],  # so that `-m` finds the module
        env={"OPENBLAS_NUM_THREADS": "1"},  # otherwise numpy starts a thread per core
    )
    try:
        async with asyncio.timeout(limits.wall_s):
            return await child.wait()
    except TimeoutError:
        return -signal.SIGKILL
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


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
