"""Audio as server-sent events in OpenAI's format.

`speech.audio.delta` events with audio in base64, then `speech.audio.done`, or `error` just before
the response is aborted.
"""

import base64
import json
from collections.abc import Mapping
from typing import Any

from app.audio.encoder import Encoder
from app.core.audio import BYTES_PER_SAMPLE, SAMPLE_RATE, TOKENS_PER_SECOND
from app.core.errors import ServiceError
from app.http.error_handlers import error_body, with_param_names


class SseEncoder(Encoder):
    """Wrap the audio's encoder.

    `input_tokens` is reported in `usage`, next to the number of speech tokens. `names`: this API's
    names of parameters, for errors.
    """

    media_type = "text/event-stream"

    def __init__(self, input_tokens: int, encoder: Encoder, names: Mapping[str, str]) -> None:
        self.cpu_bound = encoder.cpu_bound
        self._input_tokens = input_tokens
        self._encoder = encoder
        self._names = names
        self._samples = 0

    def encode(self, pcm: bytes) -> bytes:
        self._samples += len(pcm) // BYTES_PER_SAMPLE
        return _delta(self._encoder.encode(pcm))

    def finish(self) -> bytes:
        output_tokens = -(-self._samples * TOKENS_PER_SECOND // SAMPLE_RATE)  # a partial one counts
        usage = {
            "input_tokens": self._input_tokens,
            "output_tokens": output_tokens,
            "total_tokens": self._input_tokens + output_tokens,
        }
        done = _event({"type": "speech.audio.done", "usage": usage})
        return _delta(self._encoder.finish()) + done

    def on_abort(self, error: ServiceError) -> bytes:
        return _event({"type": "error", **error_body(with_param_names(error, self._names))})


def _delta(audio: bytes) -> bytes:
    if not audio:
        return b""
    return _event({"type": "speech.audio.delta", "audio": base64.b64encode(audio).decode()})


def _event(data: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % json.dumps(data, separators=(",", ":")).encode()
