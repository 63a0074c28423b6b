"""What routes are given: the master and the encoder threads, from the app's state."""

from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from app.master.master import Master


@dataclass(frozen=True)
class Services:
    """All that routes call; the app holds one."""

    master: Master
    encoder_threads: Executor


async def _services(request: Request) -> Services:  # else FastAPI would call it in a thread
    services: Services = request.app.state.services
    return services


ServicesOf = Annotated[Services, Depends(_services)]
