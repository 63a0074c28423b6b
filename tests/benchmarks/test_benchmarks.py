import json
import subprocess
import sys
from pathlib import Path

from tests.service import ROOT


def test_the_engine_benchmark_runs_at_tiny_size(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    arguments = ["--size", "tiny", "--device", "cpu", "--jobs", "1", "--jobs", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.engine", *arguments, "--json", str(figures)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "jobs" in done.stdout
    one, two = json.loads(figures.read_text())
    assert 0 < one["first_audio"] < one["total"]
    assert two["audio"] > one["audio"] > 0
