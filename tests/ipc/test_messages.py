import string
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.params import SynthesisParams
from app.ipc.messages import (
    AudioChunk,
    Broadcast,
    Credit,
    Drain,
    Heartbeat,
    JobCancelled,
    JobDone,
    JobFailed,
    JobReceived,
    LiveJobs,
    Message,
    Result,
    Synthesize,
    ToWorker,
    Voices,
    WorkerFailed,
    WorkerReady,
    WorkerStarting,
)

CHANNELS = {"jobs": ToWorker, "broadcast": Broadcast, "results": Result}
KINDS = {name: get_args(kinds) for name, kinds in CHANNELS.items()}

PARAMS = SynthesisParams(seed=7)
SAMPLES: list[tuple[str, Message]] = [
    ("jobs", Synthesize("j", "Grüße, 世界 🎧", "digest", PARAMS, live_version=1)),
    ("jobs", Synthesize("j", "", None, PARAMS, live_version=2**63)),
    ("jobs", Credit("j", 2**40)),
    ("broadcast", LiveJobs(3, ["j", "k"])),
    ("broadcast", Voices(frozenset({"digest", "another"}))),
    ("broadcast", Drain()),
    ("results", WorkerStarting("loads the model")),
    ("results", WorkerReady("preview", False, True)),
    ("results", WorkerFailed("no such file")),
    ("results", Heartbeat(5, 1)),
    ("results", JobReceived("j")),
    ("results", AudioChunk("j", 0)),
    ("results", JobDone("j", 2, 48_000)),
    ("results", JobFailed("j", "engine_error", "it failed")),
    ("results", JobFailed("j", "empty_text", "nothing to say", "text")),
    ("results", JobCancelled("j")),
]


def decode(channel: str, frame: bytes) -> Any:
    return msgspec.msgpack.decode(frame, type=CHANNELS[channel])


@pytest.mark.parametrize(("channel", "message"), SAMPLES, ids=lambda value: type(value).__name__)
def test_a_message_arrives_as_it_was_sent(channel: str, message: Message) -> None:
    assert decode(channel, msgspec.msgpack.encode(message)) == message


def test_every_message_is_tried() -> None:
    assert {type(message) for _, message in SAMPLES} == {
        kind for kinds in KINDS.values() for kind in kinds
    }


@pytest.mark.parametrize("channel", CHANNELS)
@given(frame=st.binary(max_size=100))
def test_random_bytes_decode_or_are_rejected(channel: str, frame: bytes) -> None:
    try:
        message = decode(channel, frame)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return
    assert isinstance(message, Message)


def test_a_channel_rejects_messages_of_another() -> None:
    foreign = {"jobs": LiveJobs(1, []), "broadcast": AudioChunk("j", 0), "results": Credit("j", 1)}
    for channel, message in foreign.items():
        with pytest.raises(msgspec.ValidationError):
            decode(channel, msgspec.msgpack.encode(message))


@pytest.mark.parametrize("kind", [kind for kinds in KINDS.values() for kind in kinds])
def test_an_unknown_field_is_refused(kind: type[Message]) -> None:
    frame = msgspec.msgpack.encode({"type": kind.__name__, "extra": 1})
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(frame, type=kind)


def test_a_wrong_type_of_field_is_refused() -> None:
    frame = msgspec.msgpack.encode({"type": "Credit", "job": "j", "samples": "many"})
    with pytest.raises(msgspec.ValidationError):
        decode("jobs", frame)


def test_a_message_is_a_value() -> None:
    message = Synthesize("j", "text", None, PARAMS, live_version=1)
    with pytest.raises(AttributeError):
        message.text = "other"
    assert message == msgspec.structs.replace(message)


def test_parameters_without_setting_have_upstreams_defaults() -> None:
    assert (PARAMS.repetition_penalty, PARAMS.min_p, PARAMS.top_p) == (1.2, 0.05, 1.0)


def test_no_message_carries_audio() -> None:
    for kinds in KINDS.values():
        for kind in kinds:
            fields = {field.type for field in msgspec.structs.fields(kind)}
            assert not fields & {bytes, bytearray, memoryview, Any}, kind


def test_every_tag_is_the_name_of_its_message() -> None:
    tags = [msgspec.inspect.type_info(kind).tag for kinds in KINDS.values() for kind in kinds]
    assert all(set(tag) <= set(string.ascii_letters) for tag in tags)
    assert len(tags) == len(set(tags))
