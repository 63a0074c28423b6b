"""`chatterbox-tts bench engine` at tiny size, and what it does about a wrong answer."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.service import ROOT


def figures(folder: Path, *arguments: str) -> dict[str, Any]:
    file = folder / "figures.json"
    tiny = ["--size", "tiny", "--device", "cpu", "--threads", "1", "--json", str(file)]
    done = subprocess.run(
        [sys.executable, "-m", "app", "bench", "engine", *tiny, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "first audio" in done.stdout
    told: dict[str, Any] = json.loads(file.read_text())
    return told


def test_beside_the_package_it_must_say_the_same(tmp_path: Path) -> None:
    told = figures(tmp_path, "--rounds", "1", "--tokens", "40")
    assert told["package"]["tokens_same"] == 40
    assert told["package"]["difference_db"] < -55
