import fcntl
import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from app.backend.local.runtime_dir import runtime_dir
from app.core.errors import StartupError


@pytest.fixture(autouse=True)
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The temporary directory of this test, with a short path."""
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", None)
        yield Path(folder)


def abandoned_dir() -> Path:
    """Return the directory of a process that was killed."""
    program = """
import os, signal
from app.backend.local.runtime_dir import runtime_dir
with runtime_dir() as folder:
    print(folder.channels, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    return Path(done.stdout.strip())


def test_each_service_has_a_private_directory_that_is_removed(temporary: Path) -> None:
    with runtime_dir() as one:
        assert stat.S_IMODE(one.channels.stat().st_mode) == 0o700
        with suppress(ZeroDivisionError), runtime_dir() as other:
            assert one.channels != other.channels
            (other.voices / "digest").write_bytes(b"audio")
            _ = 1 / 0
        assert list(temporary.iterdir()) == [one.channels]
        assert one.voices.is_dir()
    assert list(temporary.iterdir()) == []


def test_lock_keeps_systemd_tmpfiles_away() -> None:
    with runtime_dir() as folder:
        there = os.open(folder.channels, os.O_RDONLY)  # as systemd-tmpfiles asks
        with pytest.raises(BlockingIOError):
            fcntl.flock(there, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(there)


def test_directory_of_a_killed_service_is_removed() -> None:
    abandoned = abandoned_dir()
    assert abandoned.is_dir()
    with runtime_dir():
        assert not abandoned.exists()


def test_other_files_are_not_touched(temporary: Path) -> None:
    (temporary / "chatterbox-tts-notes").mkdir()
    (temporary / "chatterbox-tts-notes.txt").touch()
    elsewhere = temporary / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "lock").touch()
    link = temporary / "chatterbox-tts-link"
    link.mkdir()
    (link / "lock").symlink_to(elsewhere / "lock")
    with runtime_dir():
        pass
    assert len(list(temporary.iterdir())) == 4
    assert (elsewhere / "lock").exists()


def test_services_that_start_at_once_do_not_remove_each_others_directory() -> None:
    def run() -> bool:
        with runtime_dir() as folder:
            return folder.voices.is_dir()

    with ThreadPoolExecutor(8) as services:
        assert all(services.map(lambda _: run(), range(200)))


@pytest.mark.parametrize(
    ("made", "reason"), [(True, "too long"), (False, "no temporary folder can be made")]
)
def test_unusable_temporary_directory_is_a_startup_error(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, made: bool, reason: str
) -> None:
    deep = temporary / ("d" * 80)
    if made:
        deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with pytest.raises(StartupError, match=reason), runtime_dir():
        pass
    assert list(temporary.rglob("*")) == ([deep] if made else [])
