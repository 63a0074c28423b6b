"""What the service's CPU is compared with: handlers that stream some bytes, and do no more.

    python -m app.bench.bare KIND LISTENING_DESCRIPTOR BYTES

A process of its own: uvicorn, with the service's settings, around the handler of that kind. It
answers each request with so many bytes, in one piece and an end, as the service answers a tiny one.
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
    """The least that uvicorn can be asked for: a function that reads nothing of the request."""
    headers = [(b"content-type", MEDIA_TYPE.encode())]

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": audio, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return answer


def route(audio: bytes) -> ASGIApp:
    """What anyone would write: a FastAPI route with a model of its request, and a stream."""
    app = FastAPI()

    @app.post("/tts/generate")
    async def generate(wanted: GenerateRequest) -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            yield audio

        return StreamingResponse(pieces(), media_type=MEDIA_TYPE)

    return app


HANDLERS: dict[str, Callable[[bytes], ASGIApp]] = {"raw": raw, "route": route}


def main(kind: str, listening: str, size: str) -> None:
    config = uvicorn.Config(
        HANDLERS[kind](bytes(int(size))), http="httptools", ws="none", lifespan="off",
        log_config=None, access_log=False, server_header=False,
    )  # fmt: skip
    listener = socket.socket(fileno=int(listening))
    asyncio.run(uvicorn.Server(config).serve([listener]))


if __name__ == "__main__":
    main(*sys.argv[1:])
