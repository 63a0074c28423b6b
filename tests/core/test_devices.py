from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

import app.core.devices as devices
from app.core.devices import CPU, Capacity, Device, capacity, detect

UUIDS = ["GPU-11aa", "GPU-22bb", "GPU-22cc", "GPU-33dd"]
CARDS = ["NVIDIA T400", "NVIDIA GeForce RTX 4090", "NVIDIA H200", "Tesla P4"]
SIZES = [
    Capacity(1900, 500_000),
    Capacity(23_000, 41_000_000),
    Capacity(140_000, 33_000_000),
    Capacity(7500, 2_800_000),
]
ALL = [Device(f"gpu{index}", "cuda", uuid) for index, uuid in enumerate(UUIDS)]


class FakeNvml(SimpleNamespace):
    """The part of NVML that is used here; `open` counts unfinished sessions."""

    NVMLError = pynvml.NVMLError
    NVML_CLOCK_SM = pynvml.NVML_CLOCK_SM

    def __init__(self, uuids: list[Any], driver: bool = True) -> None:
        super().__init__(uuids=uuids, driver=driver, open=0)

    def nvmlInit(self) -> None:
        if not self.driver:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return len(self.uuids)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return 1000 + index

    def nvmlDeviceGetUUID(self, handle: int) -> Any:
        return self.uuids[handle - 1000]

    def nvmlDeviceGetName(self, handle: int) -> str:
        return CARDS[handle - 1000]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:
        if uuid not in self.uuids:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return 1000 + self.uuids.index(uuid)

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:
        return SimpleNamespace(free=SIZES[handle - 1000].free_mb * 2**20)

    def nvmlDeviceGetNumGpuCores(self, handle: int) -> int:
        return SIZES[handle - 1000].core_mhz // 1000

    def nvmlDeviceGetMaxClockInfo(self, handle: int, kind: int) -> int:
        assert kind == self.NVML_CLOCK_SM
        return 1000


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    """A machine with four GPUs."""
    fake = FakeNvml(UUIDS)
    monkeypatch.setattr(devices, "pynvml", fake)
    return fake


def test_every_gpu_is_a_device(nvml: FakeNvml) -> None:
    assert detect(None) == ALL
    assert nvml.open == 0


@pytest.mark.parametrize(
    ("visible", "seen"),
    [
        ("0", [0]),
        ("2,0", [2, 0]),
        (" 1 , 3 ", [1, 3]),
        ("GPU-33dd,GPU-11aa", [3, 0]),
        ("GPU-33", [3]),
        ("1,GPU-11aa", [1, 0]),
        ("0,9,1", [0]),  # what follows an invalid entry is invisible
        ("0,-1,1", [0]),
        ("0,,1", [0]),
        ("GPU-none,0", []),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
    ],
)
def test_an_operator_chooses_gpus(nvml: FakeNvml, visible: str, seen: list[int]) -> None:
    assert detect(visible) == ([ALL[index] for index in seen] or [CPU])


@pytest.mark.parametrize(
    ("visible", "lines"),
    [
        ("0", ["gpu0 is NVIDIA T400, GPU-11aa"]),  # CUDA itself would count the fastest first
        ("1,0", ["gpu1 is NVIDIA GeForce RTX 4090, GPU-22bb", "gpu0 is NVIDIA T400, GPU-11aa"]),
        ("GPU-33", ["gpu3 is Tesla P4, GPU-33dd"]),
        ("MIG-5e", ["mig0 is a slice of a GPU, MIG-5e"]),
        (
            None,
            [f"gpu{at} is {card}, {UUIDS[at]}" for at, card in enumerate(CARDS)],
        ),
    ],
)
def test_the_log_names_the_card(
    nvml: FakeNvml, visible: str | None, lines: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        detect(visible)
    assert caplog.messages == lines


def test_detects_the_cpu_without_a_driver_or_gpu(nvml: FakeNvml) -> None:
    nvml.uuids = []
    assert detect(None) == [CPU]
    nvml.driver = False
    assert detect(None) == [CPU]
    assert nvml.open == 0


def test_a_gpu_reports_its_size(nvml: FakeNvml, caplog: pytest.LogCaptureFixture) -> None:
    assert [capacity(gpu) for gpu in ALL] == SIZES
    assert caplog.messages == []
    assert capacity(Device("mig0", "cuda", "MIG-5e")) is None
    assert "mig0 does not report its size" in caplog.text
    assert capacity(CPU) is None
    nvml.driver = False
    assert capacity(ALL[0]) is None
    assert nvml.open == 0


def test_a_process_sees_its_own_device_only() -> None:
    assert ALL[1].environment() == {"CUDA_VISIBLE_DEVICES": "GPU-22bb"}
    assert CPU.environment()["CUDA_VISIBLE_DEVICES"] == ""
