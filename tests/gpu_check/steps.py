"""Run one step after the other, each within its time, and keep all figures in a JSON file."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from tests.gpu_check.targets import rows

Figures = dict[str, float]


@dataclass
class Check:
    """All figures so far, written to `file` after each step.

    `measured`: by model. `steps`: how each step ended, and its seconds. `deadline`: when the last
    step has to end.
    """

    file: Path
    deadline: float
    settings: dict[str, Any]
    measured: dict[str, Figures] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)

    async def step(
        self, name: str, limit_s: float, work: Callable[[], Awaitable[Figures]], model: str = ""
    ) -> bool:
        """Add the figures of `work` to those of `model`; return whether it ended well in time.

        A failure is kept beside the figures, and the next steps run all the same.
        """
        began = monotonic()
        limit_s = max(0.0, min(limit_s, self.deadline - began))
        outcome = "done"
        try:
            async with asyncio.timeout(limit_s):
                figures = await work()
            self.measured.setdefault(model, {}).update(figures)
        except TimeoutError:
            outcome = f"stopped after {limit_s:.0f} s"
        except Exception as error:  # noqa: BLE001
            outcome = f"{type(error).__name__}: {error}"[-400:]
        seconds = round(monotonic() - began, 1)
        self.steps.append({"step": name, "outcome": outcome, "seconds": seconds})
        print(f"{seconds:6.1f} s  {name}: {outcome}", flush=True)
        self.write()
        return outcome == "done"

    def write(self) -> None:
        content = {
            "settings": self.settings,
            "steps": self.steps,
            "rows": rows(self.measured),
            "measured": self.measured,
        }
        self.file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


async def run_command(*command: str, cwd: Path, env: dict[str, str]) -> str:
    """Run a command, which is killed if this is cancelled; return the end of what it printed.

    Raises `RuntimeError` with it if the command fails.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        env=env,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        printed, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    text = printed.decode(errors="replace")[-2000:]
    if process.returncode:
        raise RuntimeError(f"exit code {process.returncode}: {text}")
    return text
