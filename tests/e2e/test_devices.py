"""Workers on several GPUs, which a stand-in for NVML makes the service see."""

from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tests.support.engines import expected_pcm
from tests.support.http_client import speech_params
from tests.support.service import ROOT, Service

GPU_METRICS = {
    "tts_gpu_memory_used_bytes": [1 * 2**30, 2 * 2**30, 3 * 2**30],
    "tts_gpu_memory_total_bytes": [16 * 2**30] * 3,
    "tts_gpu_utilization_ratio": [0.4, 0.41, 0.42],
}
"""The GPU metrics, in order."""

# The order of NVML, which is not the one that CUDA would choose by itself.
UUIDS = ["GPU-cccc0000-2", "GPU-aaaa0000-0", "GPU-bbbb0000-1"]

NVML = f"""
from types import SimpleNamespace

UUIDS = {UUIDS!r}
GIB = 2**30


class NVMLError(Exception):
    pass


def nvmlInit():
    pass


def nvmlShutdown():
    pass


def nvmlDeviceGetCount():
    return len(UUIDS)


def nvmlDeviceGetHandleByIndex(index):
    return index


def nvmlDeviceGetUUID(index):
    return UUIDS[index].encode()  # bytes, as old versions gave them


def nvmlDeviceGetName(index):
    return f"Card {{index}}"


def nvmlDeviceGetUtilizationRates(index):
    return SimpleNamespace(gpu=40 + index, memory=20 + index)


def nvmlDeviceGetMemoryInfo(index):
    return SimpleNamespace(total=16 * GIB, used=(index + 1) * GIB, free=(15 - index) * GIB)
"""


@pytest.fixture
def path_of_nvml(tmp_path: Path) -> str:
    """A `PYTHONPATH` on which the stand-in comes first."""
    folder = tmp_path / "stand-in"
    folder.mkdir()
    (folder / "pynvml.py").write_text(NVML)
    return f"{folder}:{ROOT}"


def environment_of(pid: int) -> dict[str, str]:
    content = Path(f"/proc/{pid}/environ").read_text()
    return dict(entry.split("=", 1) for entry in content.split("\0") if entry)


@pytest.mark.covers("GPU workers")
def test_every_visible_gpu_gets_its_workers(
    start: Callable[..., Service], path_of_nvml: str
) -> None:
    service = start(PYTHONPATH=path_of_nvml, WORKERS_PER_DEVICE=2, CUDA_VISIBLE_DEVICES="2,0")
    service.wait_until(lambda: service.ready_workers() == 4, 30)
    assert "gpu2 is Card 2, " in service.log()
    workers = service.workers()
    assert [worker["id"] for worker in workers] == ["gpu2.0", "gpu2.1", "gpu0.0", "gpu0.1"]
    for worker in workers:
        index = int(worker["device"].removeprefix("gpu"))
        environment = environment_of(worker["pid"])
        assert worker["id"].startswith(f"gpu{index}.")
        assert environment["CUDA_VISIBLE_DEVICES"] == UUIDS[index]
        assert environment["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert service.status()["gpus"] == [
        {
            "device_id": index,
            "utilization_percent": {"gpu": 40 + index, "memory": 20 + index},
            "memory_gb": {"total": 16.0, "used": 1.0 + index, "free": 15.0 - index},
        }
        for index in range(3)
    ]
    with service.client() as client:
        found = {family.name: family for family in parse_text(client.get("/metrics").text)}
        assert {name for name in found if name.startswith("tts_gpu_")} == GPU_METRICS.keys()
        for name, values in GPU_METRICS.items():
            samples = {sample.labels["device"]: sample.value for sample in found[name].samples}
            assert samples == {f"gpu{index}": value for index, value in enumerate(values)}
        for _ in workers:
            answer = client.post("/tts/generate", json=speech_params("audio3"))
            assert answer.content == expected_pcm("audio3", 7)
    for worker in workers:
        service.wait_until(lambda said=f" worker={worker['id']} ": said in service.log())
