from pathlib import Path

import torch

from app.bench.checkpoint import benchmark_checkpoint
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
