import os
from pathlib import Path

import pytest

from app.server.voice_cache_dir import voice_cache_dir

VOICES = Path("voices")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


async def test_folder_is_private_kept_and_freed_of_unfinished_files(
    cache: Path, tmp_path: Path
) -> None:
    async with voice_cache_dir(VOICES, tmp_path) as folder:
        assert folder.is_relative_to(cache)
        assert folder.stat().st_mode & 0o777 == folder.parent.stat().st_mode & 0o777 == 0o700
        (folder / "digest").touch()
        (folder / ".digest.unfinished").touch()
        folder.chmod(0o755)
    async with voice_cache_dir(VOICES, tmp_path) as again:
        assert again == folder
        assert [path.name for path in folder.iterdir()] == ["digest"]
        assert folder.stat().st_mode & 0o777 == 0o700


async def test_services_with_other_voices_have_other_folders(cache: Path, tmp_path: Path) -> None:
    async with voice_cache_dir(VOICES, tmp_path) as first:
        async with voice_cache_dir(Path("other"), tmp_path) as other:
            assert other.is_relative_to(cache)
            assert other != first
        async with voice_cache_dir(VOICES, tmp_path / "runtime") as second:
            assert second == tmp_path / "runtime"
        (first / "digest").touch()
    async with voice_cache_dir(VOICES, tmp_path) as third:
        assert third == first


async def test_folders_that_are_no_longer_used_are_removed(cache: Path, tmp_path: Path) -> None:
    async with voice_cache_dir(Path("running"), tmp_path) as running:
        async with voice_cache_dir(Path("recent"), tmp_path) as recent:
            pass
        async with voice_cache_dir(Path("abandoned"), tmp_path) as abandoned:
            (abandoned / "digest").touch()
        (cache / "chatterbox-tts-server" / "voices-1").mkdir()
        for folder in (running, abandoned):
            os.utime(folder, (0, 0))
        async with voice_cache_dir(VOICES, tmp_path) as folder:
            assert set(folder.parent.iterdir()) == {running, recent, folder}


@pytest.mark.parametrize("obstacle", ["file", "link", "owner", "no home"])
async def test_folder_that_is_not_ours_is_not_used(
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    obstacle: str,
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    cache.mkdir()  # noqa: ASYNC240
    match obstacle:
        case "file":
            (cache / "chatterbox-tts-server").touch()
        case "link":
            (cache / "chatterbox-tts-server").symlink_to(elsewhere)
        case "owner":
            monkeypatch.setattr("os.geteuid", lambda: cache.stat().st_uid + 1)
        case "no home":
            monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    async with voice_cache_dir(VOICES, tmp_path / "runtime") as folder:
        assert folder == tmp_path / "runtime"
    assert list(elsewhere.iterdir()) == []
    assert "decoded voices will not outlive the service" in caplog.text
