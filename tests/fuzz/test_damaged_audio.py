"""Corrupted audio files are decoded or refused with a reason."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

from app.audio.decode_limits import DecodeLimits, ExitStatus
from app.audio.sandbox import load_decoded
from tests.support.corrupted_media import WHOLE, damaged
from tests.support.service import ROOT

LIMITS = DecodeLimits()
DAMAGED = 2 * settings().max_examples

VERDICTS = set(ExitStatus) - {ExitStatus.DISK_FULL}


def decoded(folder: Path, files: dict[str, bytes]) -> dict[str, int]:
    """How each file was judged, by a decoder of its own that kept to its limits."""
    for name, content in files.items():
        (folder / name).write_bytes(content)
    nursery = subprocess.run(
        [sys.executable, "-m", "tests.support.forked_decoder", json.dumps(asdict(LIMITS)), folder],
        cwd=ROOT,
        env={"OPENBLAS_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        check=True,
    )
    reports: list[dict[str, Any]] = [json.loads(line) for line in nursery.stdout.splitlines()]
    for report in reports:
        assert report["status"] in VERDICTS, report
        assert report["seconds"] < LIMITS.wall_s, report
        assert report["bytes"] < LIMITS.memory_bytes, report
        if report["status"] == ExitStatus.DONE:
            assert_is_voice(folder / f"{report['file']}.decoded")
    assert {report["file"] for report in reports} == files.keys()
    return {report["file"]: report["status"] for report in reports}


def assert_is_voice(result: Path) -> None:
    samples, rate = load_decoded(result)
    assert LIMITS.rates[0] <= rate <= LIMITS.rates[1]
    assert LIMITS.min_s <= len(samples) / rate <= LIMITS.max_s
    assert np.abs(samples).max() <= 1  # and so none of them is NaN


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    return folder


def test_undamaged_files_of_every_container_are_accepted(folder: Path) -> None:
    assert set(decoded(folder, WHOLE).values()) == {ExitStatus.DONE}


def test_damaged_files_are_decoded_or_refused(folder: Path) -> None:
    verdicts = decoded(folder, dict(map(damaged, range(DAMAGED))))
    assert {ExitStatus.DONE, ExitStatus.UNKNOWN_FORMAT, ExitStatus.DAMAGED} <= set(
        verdicts.values()
    )
