from pathlib import Path

import pytest

from app.server.voice_cache_dir import voice_cache_dir


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


def test_folder_is_private_kept_and_freed_of_unfinished_files(cache: Path, tmp_path: Path) -> None:
    with voice_cache_dir(tmp_path) as folder:
        assert folder.is_relative_to(cache)
        assert folder.stat().st_mode & 0o777 == folder.parent.stat().st_mode & 0o777 == 0o700
        (folder / "digest").touch()
        (folder / ".digest.unfinished").touch()
        folder.chmod(0o755)
    with voice_cache_dir(tmp_path) as again:
        assert again == folder
        assert [path.name for path in folder.iterdir()] == ["digest"]
        assert folder.stat().st_mode & 0o777 == 0o700


def test_second_service_gets_the_fallback(cache: Path, tmp_path: Path) -> None:
    with voice_cache_dir(tmp_path) as first:
        with voice_cache_dir(tmp_path / "runtime") as second:
            assert second == tmp_path / "runtime"
        (first / "digest").touch()
    with voice_cache_dir(tmp_path) as third:
        assert third == first


@pytest.mark.parametrize("obstacle", ["file", "link", "owner", "no home"])
def test_folder_that_is_not_ours_is_not_used(
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    obstacle: str,
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    cache.mkdir()
    match obstacle:
        case "file":
            (cache / "chatterbox-tts-server").touch()
        case "link":
            (cache / "chatterbox-tts-server").symlink_to(elsewhere)
        case "owner":
            monkeypatch.setattr("os.geteuid", lambda: cache.stat().st_uid + 1)
        case "no home":
            monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    with voice_cache_dir(tmp_path / "runtime") as folder:
        assert folder == tmp_path / "runtime"
    assert list(elsewhere.iterdir()) == []
    assert "decoded voices will not outlive the service" in caplog.text
