import subprocess
import sys
from pathlib import Path

import pytest

from app.core.errors import StartupError
from app.model_files.manifest import (
    ENGLISH,
    UNSUPPORTED_VARIANTS,
    inventory,
    missing,
    refuse_other_variants,
)


def test_inventory_lists_sizes_of_present_files(tmp_path: Path) -> None:
    (tmp_path / "conds.pt").write_bytes(b"12345")
    assert inventory(tmp_path) == dict.fromkeys(ENGLISH.files[:-1]) | {"conds.pt": 5}
    assert missing(tmp_path) == list(ENGLISH.files[:-1])
    assert missing(tmp_path / "nowhere") == list(ENGLISH.files)


@pytest.mark.parametrize(("name", "variant"), UNSUPPORTED_VARIANTS.items())
def test_unsupported_variant_is_recognised_by_a_file(
    tmp_path: Path, name: str, variant: str
) -> None:
    (tmp_path / name).touch()
    with pytest.raises(StartupError, match=f"{name} is of {variant}; only the English"):
        refuse_other_variants(tmp_path)
    (tmp_path / ENGLISH.t3).touch()
    refuse_other_variants(tmp_path)


def test_import_loads_neither_torch_nor_the_hub_client() -> None:
    script = (
        "import sys; from pathlib import Path; from app.model_files.manifest import missing\n"
        "import app.model_files.download\n"
        "missing(Path()); sys.exit(bool({'torch', 'huggingface_hub'} & sys.modules.keys()))"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
