import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.service import ROOT


def figures(folder: Path, *arguments: str) -> list[dict[str, Any]]:
    file = folder / "figures.json"
    tiny = ["--size", "tiny", "--device", "cpu", "--threads", "1", "--json", str(file)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.engine", *tiny, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "first audio" in done.stdout
    rows: list[dict[str, Any]] = json.loads(file.read_text())
    return rows


def test_the_engine_benchmark_runs_at_tiny_size(tmp_path: Path) -> None:
    one, two = figures(tmp_path, "--jobs", "1", "--jobs", "2")
    assert 0 < one["first_audio"] < one["total"]
    assert two["audio"] > one["audio"] > 0


def test_beside_the_package_it_must_say_the_same(tmp_path: Path) -> None:
    [row] = figures(tmp_path, "--rounds", "1")
    assert 0 < row["first_audio"] < row["total"]
    assert row["difference_db"] < -55
    [row] = figures(tmp_path, "--rounds", "1", "--t3-dtype", "int8", "--prompt-seconds", "3")
    assert row["difference_db"] is None
