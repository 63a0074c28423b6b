"""CONCURRENT_REQUESTS_PER_WORKER=auto on GPUs that a stand-in for NVML describes."""

import pytest

from app.backend.local.slots import H100_CORE_MHZ, auto_slots
from app.core import devices
from app.core.devices import CPU, Device
from app.core.model import Model, ModelInfo
from app.engines.chatterbox.variants import VARIANTS
from tests.core.test_devices import ALL, CARDS, FakeNvml, nvml

__all__ = ["nvml"]


def model(name: str) -> Model:
    spec = VARIANTS[name]
    return Model(name, "chatterbox", "", ModelInfo(spec.id), slot_needs=spec.slot_needs)


OWN = Model("a:B", "a:B", "", ModelInfo("a:B"))
P4, RTX_4090, H200 = ALL[3], ALL[1], ALL[2]


@pytest.mark.parametrize(
    ("name", "device", "workers", "slots"),
    [
        ("chatterbox", H200, 1, 15),  # of 16, by its clock
        ("turbo", RTX_4090, 1, 32),
        ("multilingual", RTX_4090, 1, 16),
        ("multilingual", RTX_4090, 2, 8),
        ("multilingual", RTX_4090, 6, 1),  # 3.8 GB each
        ("turbo", P4, 1, 2),  # its memory would hold 13
        ("chatterbox", ALL[0], 1, 1),  # holds none
        ("turbo", CPU, 1, 1),
        ("turbo", Device("mig0", "cuda", "MIG-5e"), 1, 1),
    ],
)
def test_slots_are_bounded_by_memory_and_speed(
    nvml: FakeNvml, name: str, device: Device, workers: int, slots: int
) -> None:
    assert auto_slots(model(name), device, workers) == slots


def test_engine_of_ones_own_has_one_slot(nvml: FakeNvml) -> None:
    assert auto_slots(OWN, RTX_4090, 1) == 1


def test_workers_fit_together(nvml: FakeNvml) -> None:
    for spec in VARIANTS.values():
        needs = spec.slot_needs
        for device in ALL[1:]:
            for workers in (1, 2, 3):
                slots = auto_slots(model(spec.name), device, workers)
                has = devices.capacity(device)
                assert has
                taken = workers * (needs.worker_mb + slots * needs.slot_mb)
                assert slots == 1 or taken <= has.free_mb
                assert slots == 1 or slots * workers <= needs.most


def test_choice_is_logged(nvml: FakeNvml, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        auto_slots(model("turbo"), RTX_4090, 2)
    assert caplog.messages == [
        "a worker of turbo on gpu1, with 23000 MB free for 2, takes up to 16 requests at a time"
    ]
    assert CARDS[1].endswith("4090")
    assert H100_CORE_MHZ > 33_000_000
