"""The least that a streaming handler can do: what the service's CPU is compared with.

    python -m app.bench.bare LISTENING_DESCRIPTOR BYTES

A process of its own: uvicorn, as the service runs it, around an ASGI application that streams so
many bytes, in one piece and an end, whatever is asked for.
"""

import asyncio
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn

Send = Callable[[dict[str, Any]], Awaitable[None]]


def streams(audio: bytes) -> Callable[..., Awaitable[None]]:
    """The ASGI application."""
    headers = [(b"content-type", b"audio/pcm;rate=24000;channels=1")]

    async def answer(scope: dict[str, Any], receive: Any, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": audio, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return answer


def main(listening: int, size: int) -> None:
    config = uvicorn.Config(
        streams(bytes(size)), http="httptools", ws="none", lifespan="off", log_config=None,
        access_log=False, server_header=False,
    )  # fmt: skip
    listener = socket.socket(fileno=listening)
    asyncio.run(uvicorn.Server(config).serve([listener]))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
