"""Baselines for the service's CPU time: minimal ASGI apps that stream a few bytes.

    python -m tests.benchmarks.baseline_apps KIND LISTENING_DESCRIPTOR BYTES

Runs uvicorn with the service's settings around one of `APPS`, in a process of its own. Each request
gets that many bytes in one chunk, as the service answers a tiny request.
"""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Callable

import uvicorn
from fastapi import FastAPI
from starlette.responses import StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from app.protocols.native.schemas import GenerateRequest

MEDIA_TYPE = "audio/pcm;rate=24000;channels=1"


def raw(audio: bytes) -> ASGIApp:
    """Make a plain ASGI function that does not read the request."""
    headers = [(b"content-type", MEDIA_TYPE.encode())]

    async def respond(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": audio, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return respond


def route(audio: bytes) -> ASGIApp:
    """Make an ordinary FastAPI route with a request model and a stream."""
    app = FastAPI()

    @app.post("/tts/generate")
    async def generate(request: GenerateRequest) -> StreamingResponse:
        async def chunks() -> AsyncIterator[bytes]:
            yield audio

        return StreamingResponse(chunks(), media_type=MEDIA_TYPE)

    return app


APPS: dict[str, Callable[[bytes], ASGIApp]] = {"raw": raw, "route": route}


def main(kind: str, descriptor: str, size: str) -> None:
    config = uvicorn.Config(
        APPS[kind](bytes(int(size))), http="httptools", ws="none", lifespan="off",
        log_config=None, access_log=False, server_header=False,
    )  # fmt: skip
    listener = socket.socket(fileno=int(descriptor))
    asyncio.run(uvicorn.Server(config).serve([listener]))


if __name__ == "__main__":
    main(*sys.argv[1:])
