"""What routes are given: the master and the encoder threads, from the app's state."""

from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from app.backend.local.backend import Master


@dataclass(frozen=True)
class Services:
    """All that routes call; the app holds one."""

    master: Master
    encoder_threads: Executor


def services_of(request: Request) -> Services:
    """For a route that FastAPI hands nothing but the request."""
    services: Services = request.app.state.services
    return services


async def _services(request: Request) -> Services:  # else FastAPI would call it in a thread
    return services_of(request)


ServicesOf = Annotated[Services, Depends(_services)]
