"""The server-overhead benchmark with little effort."""

import json
from pathlib import Path

import pytest

from tests.benchmarks.server_overhead import Effort, main

EFFORT = Effort(single_s=0.05, many_s=0.2, rounds=1, warm_up_requests=30, streams=5, letters=10)


@pytest.mark.timed
def test_measures_service_beside_baselines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "figures.json"
    main(["--json", str(file)], EFFORT)
    assert "The server alone" in capsys.readouterr().out
    figures = {row["name"]: row for row in json.loads(file.read_text())}
    values = {name: row["value"] for name, row in figures.items()}
    for name in ("requests that failed", "streams that failed"):
        assert values[name] == 0
    assert values["paced streams"] == EFFORT.streams
    service, route, raw = (
        values[f"{name}: CPU a request"]
        for name in ("master", "streaming FastAPI route", "raw ASGI function")
    )
    assert service > route > raw
    ratio = figures["master / streaming FastAPI route"]
    assert (ratio["value"], ratio["target"]) == (service / route, 3.5)
    assert ratio["met"] == (ratio["value"] <= 3.5)
    assert values["time to first byte over a raw one's, p50"] > 0
