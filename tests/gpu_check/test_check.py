"""The steps of the GPU check, which runs as a whole on a CPU with tiny models."""

import asyncio
import json
import os
import sys
from pathlib import Path
from time import monotonic

import pytest

from tests.gpu_check.check import main
from tests.gpu_check.steps import Check, Figures, run_command
from tests.gpu_check.targets import FIGURES, NOT_MEASURED, TITLES, rows
from tests.support.waiting import until


async def measured() -> Figures:
    return {"first_audio_p95_ms": 30.0, "paced_streams": 299}


async def endless() -> Figures:
    await asyncio.Event().wait()
    return {}


async def broken() -> Figures:
    raise RuntimeError("no kernel image")


async def test_failed_steps_leave_the_figures_of_the_others(tmp_path: Path) -> None:
    check = Check(tmp_path / "check.json", monotonic() + 60, {"device": "cuda"})
    assert await check.step("one stream", 10, measured, "turbo")
    assert not await check.step("paced", 0.05, endless, "turbo")
    assert not await check.step("engine", 10, broken, "turbo")
    content = json.loads(check.file.read_text())
    outcomes = [step["outcome"] for step in content["steps"]]
    assert outcomes == ["done", "stopped after 0 s", "RuntimeError: no kernel image"]
    found = {(row["model"], row["figure"]): row for row in content["rows"]}
    assert len(found) == len(TITLES) * len(FIGURES)
    first = found["Turbo", FIGURES["first_audio_p95_ms"]]
    assert (first["value"], first["target"], first["met"]) == (30, "≤ 35", True)
    paced = found["Turbo", FIGURES["paced_streams"]]
    assert (paced["target"], paced["met"]) == ("≥ 300", False)
    factor = found["original", FIGURES["real_time_factor"]]
    assert (factor["value"], factor["met"]) == (NOT_MEASURED, None)


async def test_no_step_runs_beyond_the_deadline(tmp_path: Path) -> None:
    check = Check(tmp_path / "check.json", monotonic(), {})
    assert not await check.step("late", 60, endless)


async def test_command_is_killed_with_its_step(tmp_path: Path) -> None:
    code = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))"
    command = (sys.executable, "-S", "-c", f"{code}; time.sleep(60)")
    running = asyncio.create_task(run_command(*command, cwd=tmp_path, env=dict(os.environ)))
    await until(lambda: (tmp_path / "pid").exists() and bool((tmp_path / "pid").read_text()))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


async def test_failed_command_says_why(tmp_path: Path) -> None:
    command = (sys.executable, "-S", "-c", "raise SystemExit('out of memory')")
    with pytest.raises(RuntimeError, match="exit code 1: out of memory"):
        await run_command(*command, cwd=tmp_path, env=dict(os.environ))


def test_machine_without_gpu_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(SystemExit):
        main(["--device", "cuda"])
    assert "no GPU is visible" in capsys.readouterr().err


@pytest.mark.heavy
@pytest.mark.timeout(600)
def test_every_step_runs_on_a_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "check.json"
    main(["--device", "cpu", "--size", "tiny", "--json", str(file)])
    content = json.loads(file.read_text())
    assert {step["outcome"] for step in content["steps"]} == {"done"}
    assert NOT_MEASURED not in {row["value"] for row in content["rows"]}
    assert "GPU check" in capsys.readouterr().out
    assert rows(content["measured"]) == content["rows"]
