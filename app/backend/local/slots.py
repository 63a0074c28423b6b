"""The slots of a worker for CONCURRENT_REQUESTS_PER_WORKER=auto."""

import logging

from app.core.devices import Device, capacity
from app.core.model import Model

log = logging.getLogger(__name__)

H100_CORE_MHZ = 16_896 * 1980
"""The card for which `SlotNeeds.most` holds; a slower one serves fewer listeners."""


def auto_slots(model: Model, device: Device, workers: int) -> int:
    """As many as the memory holds, at most what keeps listeners from running dry; at least 1.

    `workers`: those of all models that will share the device, before any of them is started. On a
    CPU, for an engine of the user's own and where the device does not report its size, it is 1.
    """
    needs, has = model.slot_needs, capacity(device)
    if needs is None or has is None:
        return 1
    room = (has.free_mb // workers - needs.worker_mb) // needs.slot_mb
    in_time = needs.most * min(has.core_mhz, H100_CORE_MHZ) // H100_CORE_MHZ // workers
    slots = max(1, min(room, in_time))
    log.info(
        "a worker of %s on %s, with %d MB free for %d, takes up to %d requests at a time",
        *(model.label, device.name, has.free_mb, workers, slots),
    )
    return slots
