import subprocess
import sys
from pathlib import Path

import pytest

from app.core.errors import StartupError
from app.model_files.manifest import (
    ENGLISH,
    MANIFESTS,
    TITLE_OF_FILE,
    damaged,
    folder_of,
    inventory,
    missing,
    refuse_other_variants,
)


def test_inventory_lists_sizes_of_present_files(tmp_path: Path) -> None:
    (tmp_path / "conds.pt").write_bytes(b"12345")
    assert inventory(tmp_path) == dict.fromkeys(ENGLISH.files[:-1]) | {"conds.pt": 5}
    assert missing(tmp_path) == list(ENGLISH.files[:-1])
    assert missing(tmp_path / "nowhere") == list(ENGLISH.files)


@pytest.mark.parametrize("model", MANIFESTS)
@pytest.mark.parametrize(("name", "title"), TITLE_OF_FILE.items())
def test_file_of_another_model_is_named_with_that_model(
    tmp_path: Path, model: str, name: str, title: str
) -> None:
    manifest = MANIFESTS[model]
    (tmp_path / name).touch()
    if name in manifest.files or title == manifest.title:
        refuse_other_variants(tmp_path, manifest)
    else:
        with pytest.raises(StartupError, match=f"{name} is of {title}, not of {manifest.title}:"):
            refuse_other_variants(tmp_path, manifest)
        (tmp_path / manifest.t3).touch()
        refuse_other_variants(tmp_path, manifest)


def test_original_is_found_in_model_path_itself_and_in_its_own_folder(tmp_path: Path) -> None:
    assert folder_of(tmp_path, "chatterbox") == tmp_path
    (tmp_path / "chatterbox").mkdir()
    assert folder_of(tmp_path, "chatterbox") == tmp_path / "chatterbox"
    assert folder_of(tmp_path, "turbo") == tmp_path / "turbo"


def test_file_of_another_size_is_damaged(tmp_path: Path) -> None:
    turbo = MANIFESTS["turbo"]
    (tmp_path / "added_tokens.json").write_bytes(bytes(418))
    (tmp_path / "merges.txt").write_bytes(bytes(1000))
    assert damaged(tmp_path, turbo) == ["merges.txt"]
    assert damaged(tmp_path, turbo, thorough=True) == ["merges.txt", "added_tokens.json"]


@pytest.mark.parametrize(
    ("model", "total"),
    [("chatterbox", 3_191_966_992), ("turbo", 2_987_680_596), ("nano", 1_942_099_748),
     ("multilingual", 3_208_951_924 + 60_193_935)],
)  # fmt: skip
def test_files_have_checksums_and_the_revision_is_a_commit(model: str, total: int) -> None:
    manifest = MANIFESTS[model]
    assert len(bytes.fromhex(manifest.revision)) == 20
    assert all(len(bytes.fromhex(each.sha256)) == 32 for each in manifest.checksums.values())
    assert sum(manifest.checksums[name].size for name in manifest.files) == total


def test_import_loads_neither_torch_nor_the_hub_client() -> None:
    script = (
        "import sys; from pathlib import Path; from app.model_files.manifest import missing\n"
        "import app.model_files.download\n"
        "missing(Path()); sys.exit(bool({'torch', 'huggingface_hub'} & sys.modules.keys()))"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
