"""A route that costs nothing beside what its endpoint does."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.responses import Response


class BareRoute(APIRoute):
    """Hands its endpoint the request as it is; what FastAPI would make of it costs too much here.

    Nothing is lost: the endpoints say themselves what they accept, and how it is documented.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        endpoint: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return endpoint
