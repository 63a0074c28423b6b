"""Corrupted audio files are decoded or refused with a reason."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from app.audio.decode_limits import DecodeLimits, ExitStatus
from app.audio.sandbox import load_decoded
from tests.support.corrupted_media import WHOLE, damaged
from tests.support.forked_decoder import decode_all

LIMITS = DecodeLimits()
DAMAGED = 2 * settings().max_examples

VERDICTS = set(ExitStatus) - {ExitStatus.DISK_FULL}


def decoded(folder: Path, files: dict[str, bytes]) -> dict[str, int]:
    """How each file was judged, by a decoder of its own that kept to its limits."""
    reports = decode_all(folder, files, LIMITS)
    for name, report in reports.items():
        assert report["status"] in VERDICTS, report
        assert report["seconds"] < LIMITS.wall_s, report
        assert report["bytes"] < LIMITS.memory_bytes, report
        if report["status"] == ExitStatus.DONE:
            assert_is_voice(folder / f"{name}.decoded")
    return {name: report["status"] for name, report in reports.items()}


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
