"""The file of a voice as an HTTP response, sent in pieces as the client takes them."""

import logging

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.voices.open_voice import OpenVoice

log = logging.getLogger(__name__)


class VoiceResponse(Response):
    """Closes `voice`. A file that cannot be read to its end ends the connection before its end."""

    media_type = "application/octet-stream"

    def __init__(self, voice: OpenVoice) -> None:
        # As Starlette's StreamingResponse: there is no body yet.
        self.status_code, self.background = 200, None
        self.init_headers(
            {
                "Content-Disposition": "attachment",
                "Content-Length": str(voice.size),
                "X-Content-Type-Options": "nosniff",
            }
        )
        self._voice = voice

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        try:
            await send(start)
            while piece := await self._voice.read():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        except OSError as error:
            log.warning("%s: response aborted: %s", scope["state"]["request_id"], error)
        finally:
            self._voice.close()
