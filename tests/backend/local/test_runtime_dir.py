import fcntl
import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app.backend.local.runtime_dir import runtime_folder
from app.core.errors import StartupError
from app.ipc.channels import broadcast_address


@pytest.fixture(autouse=True)
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The temporary folder that this test's masters see; its path is short."""
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", None)
        yield Path(folder)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def abandoned_folder() -> Path:
    """The folder of a master that was killed."""
    program = """
import os, signal
from app.backend.local.runtime_dir import runtime_folder
with runtime_folder() as folder:
    print(folder.channels, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    return Path(done.stdout.strip())


def test_nobody_else_can_enter() -> None:
    with runtime_folder() as folder:
        assert mode(folder.channels) == 0o700
        assert folder.voices.is_dir()


def test_nothing_is_left_behind(temporary: Path) -> None:
    with runtime_folder() as folder:
        (folder.voices / "digest").write_bytes(b"audio")
    assert list(temporary.iterdir()) == []


def test_nothing_is_left_behind_after_an_error(temporary: Path) -> None:
    with pytest.raises(ZeroDivisionError), runtime_folder():
        _ = 1 / 0
    assert list(temporary.iterdir()) == []


def test_what_removes_old_files_is_told_to_leave_it_alone() -> None:
    with runtime_folder() as folder:
        there = os.open(folder.channels, os.O_RDONLY)  # as systemd-tmpfiles asks
        with pytest.raises(BlockingIOError):
            fcntl.flock(there, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(there)


def test_two_masters_never_meet() -> None:
    with runtime_folder() as one:
        with runtime_folder() as other:
            assert one.channels != other.channels
            assert one.voices.is_dir()
            assert other.voices.is_dir()
        assert one.voices.is_dir()
        assert not other.channels.exists()


def test_what_a_killed_master_left_is_removed() -> None:
    abandoned = abandoned_folder()
    assert abandoned.is_dir()
    with runtime_folder():
        assert not abandoned.exists()


def test_what_others_keep_there_is_not_touched(temporary: Path) -> None:
    (temporary / "chatterbox-tts-notes").mkdir()
    (temporary / "chatterbox-tts-notes.txt").touch()
    elsewhere = temporary / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "lock").touch()
    link = temporary / "chatterbox-tts-link"
    link.mkdir()
    (link / "lock").symlink_to(elsewhere / "lock")
    with runtime_folder():
        pass
    assert len(list(temporary.iterdir())) == 4
    assert (elsewhere / "lock").exists()


def test_masters_that_start_at_once_spare_each_other() -> None:
    def live() -> bool:
        with runtime_folder() as folder:
            return folder.voices.is_dir()

    with ThreadPoolExecutor(8) as masters:
        assert all(masters.map(lambda _: live(), range(200)))


def test_the_paths_of_sockets_fit() -> None:
    with runtime_folder() as folder:
        assert len(os.fsencode(broadcast_address(folder.channels))) < 107


def test_a_path_too_long_for_sockets_is_refused(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = temporary / ("d" * 80)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with pytest.raises(StartupError, match="too long"), runtime_folder():
        pass
    assert list(deep.iterdir()) == []


def test_a_temporary_folder_that_cannot_be_used_is_one_line(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(temporary / "absent"))
    with pytest.raises(StartupError, match="no temporary folder can be made"), runtime_folder():
        pass
