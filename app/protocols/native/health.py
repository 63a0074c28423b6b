"""`/health`, `/ready` and `/ping`: probes, also served on `PORT_HEALTH`."""

from typing import Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel
from starlette.responses import Response

from app import __version__
from app.backend.base import BackendStatus, ServiceState
from app.core.errors import Draining, NotReady
from app.http.dependencies import get_state
from app.http.openapi import error_responses, json_response


async def _no_store(response: Response) -> None:
    response.headers["Cache-Control"] = "no-store"


router = APIRouter(tags=["system"], dependencies=[Depends(_no_store)])

_EXAMPLE = {"status": "ready", "model": "chatterbox", "version": "0.1.0", "compiled": True}


class Health(BaseModel):
    status: ServiceState
    model: str
    version: str
    compiled: bool
    notice: str | None = None
    models: dict[str, ServiceState] | None = None


@router.get(
    "/health",
    summary="The process is alive",
    responses=json_response(_EXAMPLE),
    response_model_exclude_unset=True,
)
@router.head("/health", include_in_schema=False)
async def health(request: Request) -> Health:
    """Always 200, for any `status`; with several models, `models` has the status of each."""
    status = get_state(request).backend.status()
    several = {"models": _states(status)} if status.models else {}
    ready = [worker for worker in status.workers if worker.state == "ready"]
    return Health(
        status=status.state,
        model=status.model,
        version=__version__,
        compiled=bool(ready) and all(worker.compiled for worker in ready),
        notice=next((worker.notice for worker in ready if worker.notice), None),
        **several,
    )


@router.get(
    "/ready",
    summary="Ready for requests",
    responses=json_response({"status": "ready"}) | error_responses(NotReady, Draining),
)
@router.head("/ready", include_in_schema=False)
async def ready(request: Request) -> dict[str, Any]:
    """200 when a worker is warm and has had time to prepare voices, else 503.

    If there are several models, `models` has the status of each.
    """
    backend = get_state(request).backend
    backend.ensure_ready()
    status = backend.status()
    several = {"models": _states(status)} if status.models else {}
    return {"status": "ready", **several}


def _states(status: BackendStatus) -> dict[str, ServiceState]:
    return {each.model: each.state for each in status.models}


@router.get(
    "/ping",
    summary="For RunPod's load balancer",
    response_class=Response,
    responses={204: {"description": "Starting, or no worker is left."}},
)
@router.head("/ping", include_in_schema=False)
async def ping(request: Request) -> Response:
    """200 when ready, 204 while starting."""
    try:
        get_state(request).backend.ensure_ready()
    except (Draining, NotReady):
        return Response(status_code=204)
    return Response(status_code=200)
