import base64
import json
from typing import Any

import pytest

from app.audio.formats import ENCODERS
from app.core.audio import SAMPLE_RATE
from app.core.errors import EmptyText, WorkerLost
from app.protocols.openai.sse import SseEncoder
from tests.audio.test_encoder import encode, speech

NAMES = {"text": "input"}


def events_in(stream: bytes) -> list[dict[str, Any]]:
    *events, end = stream.decode("ascii").split("\n\n")
    assert end == ""
    assert all(event.startswith("data: ") and "\n" not in event for event in events)
    return [json.loads(event.removeprefix("data: ")) for event in events]


@pytest.mark.parametrize("name", ENCODERS)
def test_sse_deltas_join_to_the_file(name: str) -> None:
    pcm, new = speech(0.5), ENCODERS[name]

    *deltas, done = events_in(encode(SseEncoder(3, new(SAMPLE_RATE), {}), pcm, samples=777))

    assert {delta["type"] for delta in deltas} == {"speech.audio.delta"}
    assert all(delta["audio"] for delta in deltas)
    audio = b"".join(base64.b64decode(delta["audio"]) for delta in deltas)
    assert audio == encode(new(SAMPLE_RATE), pcm)
    assert done["type"] == "speech.audio.done"


@pytest.mark.parametrize(
    ("samples", "tokens"), [(0, 0), (1, 1), (959, 1), (960, 1), (961, 2), (24_000, 25)]
)
def test_partial_token_counts(samples: int, tokens: int) -> None:
    encoder = SseEncoder(7, ENCODERS["raw_pcm"](SAMPLE_RATE), NAMES)

    done = events_in(encode(encoder, bytes(2 * samples), samples=100))[-1]

    assert done["usage"] == {
        "input_tokens": 7,
        "output_tokens": tokens,
        "total_tokens": 7 + tokens,
    }


def test_abort_event_uses_the_routes_parameter_names() -> None:
    encoder = SseEncoder(7, ENCODERS["raw_pcm"](SAMPLE_RATE), NAMES)

    [event] = events_in(encoder.on_abort(EmptyText("nothing", param="text")))

    assert event["error"]["param"] == "input"


def test_abort_event_has_the_usual_error_shape() -> None:
    encoder = SseEncoder(7, ENCODERS["raw_pcm"](SAMPLE_RATE), NAMES)

    [event] = events_in(encoder.on_abort(WorkerLost("it is gone")))

    assert event == {
        "type": "error",
        "error": {
            "message": "It is gone.",
            "type": "server_error",
            "code": "worker_lost",
            "param": None,
        },
    }


def test_sse_encoder_is_cpu_bound_if_its_encoder_is() -> None:
    for new in ENCODERS.values():
        encoder = new(SAMPLE_RATE)
        assert SseEncoder(0, encoder, {}).cpu_bound == encoder.cpu_bound
