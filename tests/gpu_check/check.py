"""Measure a machine with a GPU in six minutes, beside the targets.

    python -m tests.gpu_check [--json FILE] [--device cpu --size tiny]

The gates are `pytest -m gpu`. Then Turbo and the original, with random weights of full size, serve
over HTTP, and their engines run alone. Each step has its own time; the JSON file has all figures
so far after each. With `--size tiny` the figures mean nothing, but every step runs. The exit code
is 1 if a step failed; a missed target is only shown.
"""

import argparse
import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec
import psutil
from rich.console import Console
from rich.table import Table

from app.bench.load import LoadResult, Target, Workload
from app.bench.model_folder import write_model
from app.cli.bench import BENCH_TEXT
from app.core.devices import detect
from app.core.process_env import visible_cuda_devices
from tests.gpu_check.steps import Check, Figures, run_command
from tests.gpu_check.targets import NOT_MEASURED, SLOTS, TITLES, rows
from tests.support.service import API_KEY, ROOT, Service

TINY_ENGINES = {
    "turbo": ("tests.support.tiny_chatterbox:TinyTurbo", ""),
    "chatterbox": ("tests.support.tiny_chatterbox:TinyChatterbox", "chatterbox"),
}
"""The engine of each tiny model, and the folder in the models' folder that it is started with."""

STOP_S = 2.0
"""What a thread that waits for the service has less than its step."""


@dataclass(frozen=True)
class Effort:
    """How much is measured. `paced`: how many clients play in real time, for each model."""

    total_s: float = 350
    requests: int = 20
    at_once: int = 32
    paced: dict[str, tuple[int, ...]] = field(default_factory=dict)
    paced_text: str = 6 * f"{BENCH_TEXT} "
    ramp_s: float = 4


FULL = Effort(paced={"turbo": (32, 100, 300), "chatterbox": (32, 120)})
TINY = Effort(
    420, requests=2, at_once=2, paced=dict.fromkeys(TITLES, (1,)), paced_text="Hi.", ramp_s=0
)


@dataclass(frozen=True)
class Plan:
    """What to measure, and with which models' folder."""

    device: str
    tiny: bool
    effort: Effort
    models: tuple[str, ...]
    folder: Path

    @property
    def env(self) -> dict[str, str]:
        hidden = {"CUDA_VISIBLE_DEVICES": ""} if self.device == "cpu" else {}
        return dict(os.environ) | hidden

    def service_env(self, model: str) -> dict[str, Any]:
        name, folder = TINY_ENGINES[model] if self.tiny else (model, "")
        return {
            **({"CUDA_VISIBLE_DEVICES": ""} if self.device == "cpu" else {}),
            "MODEL": name,
            "MODEL_PATH": self.folder / folder,
            "CONCURRENT_REQUESTS_PER_WORKER": 2 if self.tiny else SLOTS,
            "MAX_QUEUED_REQUESTS": 1000,
        }


async def measure(plan: Plan, check: Check) -> None:
    """Run all steps; the weights are written while the gates run."""
    gates = check.step("pytest -m gpu", 120, partial(_run_gates, plan), "gates")
    weights = [
        check.step(f"{model}: random weights", 120, partial(_write_weights, plan, model), model)
        for model in plan.models
    ]
    await asyncio.gather(gates, *weights)
    for model in plan.models:
        await _measure_service(plan, check, model)
    for model in plan.models:
        await check.step(f"{model}: engine alone", 75, partial(_run_engine, plan, model), model)


async def _run_gates(plan: Plan) -> Figures:
    command = (sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/engines")
    printed = await run_command(*command, cwd=ROOT, env=plan.env)
    if plan.device == "cuda" and " passed" not in printed:
        raise RuntimeError(f"no test ran: {printed}")
    return {}


async def _write_weights(plan: Plan, model: str) -> Figures:
    if plan.tiny:
        await asyncio.to_thread(write_model, plan.folder, model, "tiny")
    else:
        command = (sys.executable, "-m", "app", "bench", "checkpoint", "--model", model)
        await run_command(*command, str(plan.folder), cwd=ROOT, env=plan.env)
    return {}


async def _measure_service(plan: Plan, check: Check, model: str) -> None:
    async with _service(plan, model) as service:
        start = partial(_start, service, limit_s=100)
        if not await check.step(f"{model}: service starts", 100, start, model):
            return
        steps: list[tuple[str, float, Callable[[], Awaitable[Figures]]]] = [
            ("one stream", 20, partial(_one_stream, plan, service)),
            (f"{plan.effort.at_once} at once", 30, partial(_many_streams, plan, service)),
            ("memory", 5, partial(_memory, service)),
        ]
        for name, limit_s, work in steps:
            await check.step(f"{model}: {name}", limit_s, work, model)
        passed = 0
        for clients in plan.effort.paced.get(model, ()):
            paced = partial(_paced_streams, plan, service, clients, passed)
            await check.step(f"{model}: {clients} paced streams", 40, paced, model)
            if check.measured[model].get("paced_streams") != clients:
                break
            passed = clients


@asynccontextmanager
async def _service(plan: Plan, model: str) -> AsyncIterator[Service]:
    with tempfile.TemporaryDirectory(prefix="tts-check-") as name:
        service = Service(Path(name), plan.service_env(model))
        try:
            yield service
        finally:
            await asyncio.to_thread(service.stop)


async def _start(service: Service, limit_s: float) -> Figures:
    began = monotonic()
    await asyncio.to_thread(service.wait_ready, limit_s - STOP_S)
    return {"start_s": monotonic() - began}


async def _run_load(service: Service, **workload: Any) -> LoadResult:
    text = workload.pop("text", BENCH_TEXT)
    target = await asyncio.to_thread(Target.at, service.url, API_KEY)
    result = await target.run(Workload({"text": text, "format": "raw_pcm", "seed": 1}, **workload))
    if result.succeeded < result.requests:
        raise RuntimeError(f"requests failed: {result.outcomes} {result.messages}")
    return result


async def _one_stream(plan: Plan, service: Service) -> Figures:
    await _run_load(service, requests=2)
    result = await _run_load(service, requests=plan.effort.requests)
    assert result.first_audible_ms
    assert result.real_time_factor
    return {
        "first_audio_p50_ms": result.first_audible_ms.p50,
        "first_audio_p95_ms": result.first_audible_ms.p95,
        "real_time_factor": result.real_time_factor.p50,
    }


async def _many_streams(plan: Plan, service: Service) -> Figures:
    clients = plan.effort.at_once
    await _run_load(service, concurrency=clients, requests=clients)
    result = await _run_load(service, concurrency=clients, requests=clients)
    assert result.first_audible_ms
    return {
        "first_audio_32_p50_ms": result.first_audible_ms.p50,
        "first_audio_32_p95_ms": result.first_audible_ms.p95,
        "times_real_time_32": result.audio_s / result.seconds,
    }


async def _paced_streams(plan: Plan, service: Service, clients: int, passed: int) -> Figures:
    """`passed`: the most clients that have played without an underrun so far."""
    result = await _run_load(
        service,
        concurrency=clients,
        requests=clients,
        paced=True,
        ramp_s=plan.effort.ramp_s,
        text=plan.effort.paced_text,
    )
    without_underrun = passed if result.underruns else clients
    return {"paced_streams": without_underrun, f"underruns_of_{clients}": result.underruns}


async def _memory(service: Service) -> Figures:
    """Of the GPU by all programs; on a CPU of the worker."""
    status = await asyncio.to_thread(service.status)
    used_gb = sum(gpu["memory_gb"]["used"] for gpu in status["gpus"])
    if not used_gb:
        pids = [worker["pid"] for worker in status["workers"]]
        used_gb = sum(psutil.Process(pid).memory_info().rss for pid in pids) / 1e9
    return {"worker_memory_gb": used_gb}


async def _run_engine(plan: Plan, model: str) -> Figures:
    file = plan.folder / f"{model}.json"
    size = ["--size", "tiny", "--threads", "1"] if plan.tiny else []
    weights = [] if plan.tiny else ["--model-path", str(plan.folder / model)]
    command = [sys.executable, "-m", "app", "bench", "engine", "--model", model, *size, *weights]
    options = ["--rounds", "0", "--device", plan.device, "--json", str(file)]
    await run_command(*command, *options, cwd=ROOT, env=plan.env)
    own = msgspec.json.decode(file.read_bytes())["own"]
    return {
        "t3_step_ms": own["t3_ms_per_token"]["median"],
        "first_slice_ms": 1000 * own["slices_s"][0]["median"],
    }


def show(check: Check) -> None:
    table = Table("model", "figure", "measured", "target", "met", title="GPU check")
    for row in rows(check.measured):
        value = row["value"] if row["value"] == NOT_MEASURED else f"{row['value']:.3g}"
        met = {None: "", True: "yes", False: "no"}[row["met"]]
        table.add_row(row["model"], row["figure"], value, row["target"], met)
    Console(width=110).print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu_check")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--size", choices=("full", "tiny"), default="full")
    parser.add_argument("--model", choices=tuple(TITLES), help="only one of the models")
    parser.add_argument("--json", type=Path, default=Path("gpu_check.json"))
    given = parser.parse_args(arguments)
    if given.device == "cuda" and detect(visible_cuda_devices())[0].kind != "cuda":
        parser.error("no GPU is visible; --device cpu --size tiny tries the steps")
    tiny = given.size == "tiny"
    effort = TINY if tiny else FULL
    settings = {"device": given.device, "size": given.size}
    check = Check(given.json, monotonic() + effort.total_s, settings)
    models = (given.model,) if given.model else tuple(TITLES)
    with tempfile.TemporaryDirectory(prefix="tts-gpu-check-") as name:
        asyncio.run(measure(Plan(given.device, tiny, effort, models, Path(name)), check))
    show(check)
    if any(step["outcome"] != "done" for step in check.steps):
        sys.exit(1)
