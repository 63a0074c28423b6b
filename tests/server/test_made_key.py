"""The file in which a service keeps the key that it has made."""

import logging
import multiprocessing
import stat
from contextlib import ExitStack
from pathlib import Path

import pytest

from app.server.made_key import FOLDER, find_key, kept_key

PORT = 18_999


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "chatterbox-tts-server" / FOLDER


def test_key_is_found_while_the_service_runs_and_for_its_port_alone() -> None:
    with kept_key(PORT, "a key"):
        assert found_by_another_process(PORT) == "a key"
        assert find_key(PORT + 1) == ""
    assert find_key(PORT) == ""


def found_by_another_process(port: int) -> str:
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(find_key, (port,))


def test_only_the_user_can_read_it_and_nothing_is_left(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / str(PORT)).write_text("an old file that all can read")
    (folder / str(PORT)).chmod(0o644)
    with kept_key(PORT, "a key"):
        [file] = folder.iterdir()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        for each in (folder, folder.parent):
            assert stat.S_IMODE(each.stat().st_mode) == 0o700
    assert list(folder.iterdir()) == []


def test_file_of_a_killed_service_is_ignored_and_replaced(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / str(PORT)).write_text("stale")
    assert find_key(PORT) == ""
    with kept_key(PORT, "new"):
        assert find_key(PORT) == "new"


def test_file_of_a_later_service_stays() -> None:
    first = ExitStack()
    first.enter_context(kept_key(PORT, "first"))
    with kept_key(PORT, "second"):
        first.close()
        assert find_key(PORT) == "second"


@pytest.mark.parametrize("home", ["relative", "/dev/null/state", "/proc/none"])
def test_missing_state_folder_is_one_line(
    home: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", home)
    with caplog.at_level(logging.WARNING), kept_key(PORT, "a key"):
        assert find_key(PORT) == ""
    [record] = caplog.records
    assert "will not know the key" in record.getMessage()
    assert "XDG_STATE_HOME" in record.getMessage()
    assert "a key" not in record.getMessage()
