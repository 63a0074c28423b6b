from pathlib import Path

import pytest
import torch

from app.bench import checkpoint
from app.bench.checkpoint import benchmark_checkpoint, full_checkpoint
from app.core.errors import StartupError
from app.model_files.manifest import ENGLISH


def test_random_weights_have_ten_seconds_of_prompt_and_are_removed() -> None:
    with benchmark_checkpoint("", tiny=True) as folder:
        assert {path.name for path in folder.iterdir()} >= set(ENGLISH.files)
        voice = torch.load(folder / "conds.pt", weights_only=True)["gen"]
        assert voice["prompt_token"].shape == (1, 250)
        assert voice["prompt_feat"].shape == (1, 500, 80)
        assert voice["prompt_token_len"].tolist() == [250]
    assert not folder.exists()


def test_existing_folder_is_used_and_kept(tmp_path: Path) -> None:
    with benchmark_checkpoint(str(tmp_path), tiny=False) as folder:
        assert folder == tmp_path
    assert tmp_path.exists()


@pytest.fixture
def shared_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the weights of full size go, which nothing makes."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(checkpoint, "make_checkpoint", lambda folder, size, variant: None)
    return full_checkpoint()


def test_lock_of_shared_weights_follows_no_symlink(shared_folder: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("of another program")
    (shared_folder / ".lock").unlink()
    (shared_folder / ".lock").symlink_to(precious)
    with pytest.raises(OSError, match="symbolic"):
        full_checkpoint()
    assert precious.read_text() == "of another program"


def test_weights_in_a_folder_of_another_user_are_not_used(
    shared_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shared_folder.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr("os.geteuid", lambda: shared_folder.stat().st_uid + 1)
    with pytest.raises(StartupError, match="another user's"):
        full_checkpoint()
