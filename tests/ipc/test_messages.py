from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.model import ModelInfo
from app.core.params import SynthesisParams
from app.core.resume_point import ResumePoint
from app.ipc.messages import (
    ActiveJobs,
    AudioChunk,
    Broadcast,
    Credit,
    Drain,
    Heartbeat,
    JobCancelled,
    JobDone,
    JobFailed,
    JobPreempted,
    JobStarted,
    Message,
    Preempt,
    PreparingVoice,
    Report,
    Result,
    Synthesize,
    ToWorker,
    VoiceDropped,
    VoiceFailed,
    VoicePrepared,
    Voices,
    VoicesKnown,
    WorkerFailed,
    WorkerReady,
    WorkerStarting,
)

CHANNELS = {"jobs": ToWorker, "broadcast": Broadcast, "reports": Report, "results": Result}
KINDS = {name: get_args(kinds) for name, kinds in CHANNELS.items()}

PARAMS = SynthesisParams(seed=7)
POINT = ResumePoint(2, b"\0\xff", b"\x80")
SAMPLES: list[tuple[str, Message]] = [
    ("jobs", Synthesize("j", "Grüße, 世界 🎧", "digest", PARAMS, active_version=1, credit=0)),
    ("jobs", Synthesize("j", "", None, PARAMS, active_version=2**63, credit=2**40)),
    ("jobs", Synthesize("j", "", None, PARAMS, 1, 0, True, 3, 72_000, POINT)),
    ("jobs", Credit("j", 2**40)),
    ("jobs", Preempt("j")),
    ("broadcast", ActiveJobs(3, ["j", "k"])),
    ("broadcast", Voices(frozenset({"digest", "another"}), frozenset({"digest"}), version=2)),
    ("broadcast", Drain()),
    ("reports", JobStarted("j")),
    ("reports", PreparingVoice("digest")),
    ("reports", VoicePrepared("digest")),
    ("reports", VoiceFailed("digest")),
    ("reports", VoiceDropped("digest")),
    ("reports", VoicesKnown(2)),
    ("results", WorkerStarting("loads the model")),
    ("results", WorkerReady(ModelInfo("preview", False, True))),
    ("results", WorkerFailed("no such file")),
    ("results", WorkerFailed("broken", "j", "digest")),
    ("results", Heartbeat(5, 1.5, "j")),
    ("results", Heartbeat(5, 1.5, voice="digest", runaways=1)),
    ("results", AudioChunk("j", 0)),
    ("results", JobDone("j", 2, 48_000)),
    ("results", JobFailed("j", "engine_error", "it failed")),
    ("results", JobFailed("j", "empty_text", "nothing to say", "text")),
    ("results", JobCancelled("j")),
    ("results", JobPreempted("j", 3, 72_000, POINT)),
]


def decode(channel: str, frame: bytes) -> Any:
    return msgspec.msgpack.decode(frame, type=CHANNELS[channel])


@pytest.mark.parametrize(("channel", "message"), SAMPLES, ids=lambda value: type(value).__name__)
def test_message_arrives_as_it_was_sent(channel: str, message: Message) -> None:
    assert decode(channel, msgspec.msgpack.encode(message)) == message


def test_samples_include_every_message() -> None:
    assert {type(message) for _, message in SAMPLES} == {
        kind for kinds in KINDS.values() for kind in kinds
    }


@pytest.mark.parametrize("channel", CHANNELS)
@given(frame=st.binary(max_size=100))
def test_random_bytes_are_a_message_or_a_decode_error(channel: str, frame: bytes) -> None:
    try:
        message = decode(channel, frame)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return
    assert isinstance(message, Message)


def test_channel_refuses_messages_of_other_channels() -> None:
    foreign: dict[str, Message] = {
        "jobs": ActiveJobs(1, []),
        "broadcast": AudioChunk("j", 0),
        "reports": JobDone("j", 0, 0),
        "results": Credit("j", 1),
    }
    for channel, message in foreign.items():
        with pytest.raises(msgspec.ValidationError):
            decode(channel, msgspec.msgpack.encode(message))


@pytest.mark.parametrize("kind", [kind for kinds in KINDS.values() for kind in kinds])
def test_refuses_unknown_fields(kind: type[Message]) -> None:
    frame = msgspec.msgpack.encode({"type": kind.__name__, "extra": 1})
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(frame, type=kind)


def test_default_parameters_are_those_of_upstream() -> None:
    assert (PARAMS.repetition_penalty, PARAMS.min_p, PARAMS.top_p) == (1.2, 0.05, 1.0)
