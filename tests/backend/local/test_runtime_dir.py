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

from app.backend.local.runtime_dir import runtime_dir
from app.core.errors import StartupError
from app.ipc.channels import broadcast_address


@pytest.fixture(autouse=True)
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The temporary directory of this test, with a short path."""
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", None)
        yield Path(folder)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


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


def test_only_the_owner_can_enter() -> None:
    with runtime_dir() as folder:
        assert mode(folder.channels) == 0o700
        assert folder.voices.is_dir()


def test_directory_is_removed_on_exit(temporary: Path) -> None:
    with runtime_dir() as folder:
        (folder.voices / "digest").write_bytes(b"audio")
    assert list(temporary.iterdir()) == []


def test_directory_is_removed_after_an_error(temporary: Path) -> None:
    with pytest.raises(ZeroDivisionError), runtime_dir():
        _ = 1 / 0
    assert list(temporary.iterdir()) == []


def test_lock_keeps_systemd_tmpfiles_away() -> None:
    with runtime_dir() as folder:
        there = os.open(folder.channels, os.O_RDONLY)  # as systemd-tmpfiles asks
        with pytest.raises(BlockingIOError):
            fcntl.flock(there, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(there)


def test_each_service_has_its_own_directory() -> None:
    with runtime_dir() as one:
        with runtime_dir() as other:
            assert one.channels != other.channels
            assert one.voices.is_dir()
            assert other.voices.is_dir()
        assert one.voices.is_dir()
        assert not other.channels.exists()


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


def test_socket_paths_fit() -> None:
    with runtime_dir() as folder:
        assert len(os.fsencode(broadcast_address(folder.channels))) < 107


def test_refuses_a_path_too_long_for_sockets(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = temporary / ("d" * 80)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with pytest.raises(StartupError, match="too long"), runtime_dir():
        pass
    assert list(deep.iterdir()) == []


def test_unusable_temporary_directory_is_a_startup_error(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(temporary / "absent"))
    with pytest.raises(StartupError, match="no temporary folder can be made"), runtime_dir():
        pass
