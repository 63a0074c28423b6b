"""Real sockets; the workers' ends run in this process or, where it has to die, in another."""

import asyncio
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq
import zmq.asyncio

import app.ipc.channels as transport
from app.ipc.channels import (
    HIGH_WATER_MARK,
    MESSAGES_PER_TURN,
    Broadcaster,
    BroadcastReceiver,
    JobReceiver,
    JobSender,
    ResultReceiver,
    ResultSender,
    broadcast_address,
    jobs_address,
    results_address,
)
from app.ipc.messages import ActiveJobs, AudioChunk, Credit, Heartbeat, JobDone, Result, Synthesize
from tests.ipc.test_messages import PARAMS
from tests.support.waiting import PATIENCE_S, until


@pytest.fixture
def channels() -> Iterator[Path]:
    """A folder whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.fixture
def context() -> Iterator[zmq.Context[Any]]:
    context: zmq.Context[Any] = zmq.Context()
    yield context
    context.destroy(linger=0)


@pytest.fixture
def worker_context() -> Iterator[zmq.asyncio.Context]:
    context = zmq.asyncio.Context()
    yield context
    context.destroy(linger=0)


class Inbox:
    """The master's end of one results channel, and all messages received from it."""

    def __init__(self, context: zmq.Context[Any], address: str) -> None:
        self.messages: list[tuple[Result, bytes]] = []
        self.address = address
        self.receiver = ResultReceiver(context, address, self._take)
        self._came = asyncio.Event()

    async def holds(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                self._came.clear()
                await self._came.wait()

    def _take(self, message: Result, pcm: bytes) -> None:
        self.messages.append((message, pcm))
        self._came.set()


@pytest.fixture
async def inbox(context: zmq.Context[Any], channels: Path) -> AsyncIterator[Inbox]:
    inbox = Inbox(context, results_address(channels, 1))
    yield inbox
    inbox.receiver.close()


@pytest.fixture
def stranger(context: zmq.Context[Any], inbox: Inbox) -> Iterator[zmq.Socket[Any]]:
    """A socket that can send any bytes to the inbox."""
    with context.socket(zmq.PUSH) as socket:
        socket.set(zmq.LINGER, 0)
        socket.connect(inbox.address)
        yield socket


@pytest.fixture
def results(worker_context: zmq.asyncio.Context, inbox: Inbox) -> Iterator[ResultSender]:
    sender = ResultSender(worker_context, inbox.address)
    yield sender
    sender.close(0)


@pytest.fixture
def jobs(context: zmq.Context[Any], channels: Path) -> Iterator[JobSender]:
    sender = JobSender(context, jobs_address(channels, 1))
    yield sender
    sender.close()


@pytest.fixture
def job_receiver(worker_context: zmq.asyncio.Context, channels: Path) -> Iterator[JobReceiver]:
    receiver = JobReceiver(worker_context, jobs_address(channels, 1))
    yield receiver
    receiver.close()


@pytest.fixture
def low_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "HIGH_WATER_MARK", 10)
    monkeypatch.setattr(transport, "MAX_FRAME_BYTES", 1000)


# --- what is sent arrives -------------------------------------------------------------------------


async def test_results_arrive_in_order_each_with_its_audio(
    inbox: Inbox, results: ResultSender, caplog: pytest.LogCaptureFixture
) -> None:
    sent: list[tuple[Result, bytes]] = [
        (AudioChunk("j", 0), b"\1\2" * 10),
        (AudioChunk("j", 1), b"\3\4" * 100_000),  # beyond what is copied
        (Heartbeat(3, 1), b""),
        (JobDone("j", 2, 100_010), b""),
    ]
    for message, pcm in sent:
        await results.send(message, pcm or None)
    await inbox.holds(lambda: len(inbox.messages) == 4)
    assert inbox.messages == sent
    assert caplog.messages == []


async def test_jobs_arrive_in_order(jobs: JobSender, job_receiver: JobReceiver) -> None:
    job = Synthesize("j", "text", None, PARAMS, 1, 0)
    await until(lambda: jobs.send(job))  # it has connected
    assert jobs.send(Credit("j", 20))
    async with asyncio.timeout(PATIENCE_S):
        received = [await job_receiver.receive(), await job_receiver.receive()]
    assert received == [job, Credit("j", 20)]


async def test_closed_sockets_leave_no_files(context: zmq.Context[Any], channels: Path) -> None:
    jobs = JobSender(context, jobs_address(channels, 1))
    results = ResultReceiver(context, results_address(channels, 1), lambda message, pcm: None)
    assert sorted(os.listdir(channels)) == ["jobs-1", "results-1"]
    jobs.close()
    results.close()
    assert os.listdir(channels) == []


@pytest.mark.usefixtures("low_limits")
async def test_send_fails_before_a_worker_connects_and_at_the_high_water_mark(
    jobs: JobSender, worker_context: zmq.asyncio.Context, channels: Path
) -> None:
    message = Credit("j" * 900, 1)
    assert not jobs.send(message)
    receiver = JobReceiver(worker_context, jobs_address(channels, 1))
    await until(lambda: jobs.send(message))  # it has connected
    taken = 1
    while jobs.send(message):
        taken += 1
        assert taken < 1000
    receiver.close()


# --- junk -----------------------------------------------------------------------------------------


class Bomb:
    """Creates the folder `path` if it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def dropped(caplog: pytest.LogCaptureFixture) -> int:
    """How many messages the log says did not decode."""
    return sum("does not decode" in line for line in caplog.messages)


JUNK = [
    b"",
    bytes(range(256)),
    msgspec.msgpack.encode(Heartbeat(1, 1))[:-1],
    msgspec.msgpack.encode([1, 2, 3]),
    msgspec.msgpack.encode({"type": "Shutdown"}),
    b"\x81\xa4type\xa4\xff\xfe\xfd\xfc",  # not text
    b"\x82\xa1x" + b"\x91" * 100_000,  # deeply nested
]


@pytest.mark.fault(52)
async def test_junk_is_logged_and_dropped(
    inbox: Inbox,
    stranger: zmq.Socket[Any],
    results: ResultSender,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for junk in [*JUNK, msgspec.msgpack.encode(Credit("j", 1))]:
        stranger.send(junk)
    await until(lambda: dropped(caplog) == len(JUNK) + 1)
    await results.send(Heartbeat(1, 0))
    await inbox.holds(lambda: len(inbox.messages) == 1)


@pytest.mark.fault(52)
async def test_pickle_is_not_unpickled(
    inbox: Inbox, stranger: zmq.Socket[Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "folder"
    bomb = pickle.dumps(Bomb(folder))
    stranger.send(bomb)
    stranger.send_multipart([msgspec.msgpack.encode(AudioChunk("j", 0)), bomb])
    await inbox.holds(lambda: len(inbox.messages) == 1)
    assert dropped(caplog) == 1
    assert not folder.exists()


@pytest.mark.fault(52)
@pytest.mark.usefixtures("low_limits")
async def test_an_oversized_frame_never_arrives(inbox: Inbox, results: ResultSender) -> None:
    await results.send(AudioChunk("j", 0), bytes(1001))
    while len(inbox.messages) == 0:  # it reconnects, and what was under way may be lost
        await results.send(Heartbeat(1, 0))
        await asyncio.sleep(0)
    assert {message for message, _ in inbox.messages} == {Heartbeat(1, 0)}


@pytest.mark.fault(52)
async def test_a_worker_drops_junk_too(
    context: zmq.Context[Any], job_receiver: JobReceiver, channels: Path
) -> None:
    with context.socket(zmq.PUSH) as stranger:
        stranger.bind(jobs_address(channels, 1))
        for junk in [*JUNK, msgspec.msgpack.encode(Heartbeat(1, 1))]:
            stranger.send(junk)
        stranger.send(msgspec.msgpack.encode(Credit("j", 1)))
        async with asyncio.timeout(PATIENCE_S):
            assert await job_receiver.receive() == Credit("j", 1)


# --- a worker's last words ------------------------------------------------------------------------

LAST_WORDS = """
import asyncio, os, signal, sys
import zmq.asyncio
from app.ipc.messages import AudioChunk
from app.ipc.channels import ResultSender

async def main(address, count):
    context = zmq.asyncio.Context()
    results = ResultSender(context, address)
    for seq in range(count):
        await results.send(AudioChunk("j", seq), seq.to_bytes(2, "little") * 500)
    results.close(-1)
    context.term()  # returns when the last byte has left this process
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


def dying_worker(address: str, messages: int) -> list[str]:
    return [sys.executable, "-c", LAST_WORDS, address, str(messages)]


async def test_finish_delivers_everything_a_dead_worker_sent(
    context: zmq.Context[Any], channels: Path
) -> None:
    """Nobody listens while it lives: the event loop stands still until it is dead."""
    count = HIGH_WATER_MARK + 500
    for incarnation in range(3):
        inbox = Inbox(context, results_address(channels, incarnation))
        subprocess.run(dying_worker(inbox.address, count))  # noqa: ASYNC221 - on purpose
        assert inbox.messages == []
        await asyncio.wait_for(inbox.receiver.finish(), PATIENCE_S)
        inbox.receiver.close()
        assert [message.seq for message, _ in inbox.messages] == list(range(count))
        assert all(pcm == m.seq.to_bytes(2, "little") * 500 for m, pcm in inbox.messages)


async def test_finish_waits_while_a_worker_is_connected(
    inbox: Inbox, results: ResultSender
) -> None:
    await results.send(Heartbeat(1, 0))
    await inbox.holds(lambda: len(inbox.messages) == 1)
    finishing = asyncio.create_task(inbox.receiver.finish())
    await results.send(Heartbeat(2, 0))
    await inbox.holds(lambda: len(inbox.messages) == 2)
    assert not finishing.done()
    results.close(0)
    await asyncio.wait_for(finishing, PATIENCE_S)


async def test_finish_does_not_wait_for_a_worker_that_never_connected(inbox: Inbox) -> None:
    await asyncio.wait_for(inbox.receiver.finish(), PATIENCE_S)
    assert inbox.messages == []


# --- being fair -----------------------------------------------------------------------------------


@pytest.mark.timed
async def test_many_results_do_not_starve_the_event_loop(
    context: zmq.Context[Any], worker_context: zmq.asyncio.Context, channels: Path
) -> None:
    turn = 0
    received_in: dict[int, int] = {}

    def receive(message: Result, pcm: bytes) -> None:
        received_in[turn] = received_in.get(turn, 0) + 1

    address = results_address(channels, 1)
    receiver = ResultReceiver(context, address, receive)
    sender = ResultSender(worker_context, address)
    sending = asyncio.create_task(flood(sender, 5000))
    try:
        async with asyncio.timeout(PATIENCE_S):
            while sum(received_in.values()) < 5000:
                await asyncio.sleep(0)
                turn += 1
    finally:
        await sending
        sender.close(0)
        receiver.close()
    assert max(received_in.values()) <= 2 * MESSAGES_PER_TURN  # its own turn, and the descriptor's


async def flood(sender: ResultSender, count: int) -> None:
    for steps in range(count):
        await sender.send(Heartbeat(steps, 0))


# --- broadcast ------------------------------------------------------------------------------------


@pytest.fixture
def broadcaster(context: zmq.Context[Any], channels: Path) -> Iterator[Broadcaster]:
    broadcaster = Broadcaster(context, broadcast_address(channels))
    yield broadcaster
    broadcaster.close()


async def until_version(receiver: BroadcastReceiver, version: int) -> list[int]:
    """Return the versions received, up to and including this one."""
    received = []
    while not received or received[-1] != version:
        message = await receiver.receive()
        assert isinstance(message, ActiveJobs)
        received.append(message.version)
    return received


@pytest.mark.fault(58)
async def test_lost_broadcast_is_corrected_by_the_next_one(
    broadcaster: Broadcaster, worker_context: zmq.asyncio.Context, channels: Path
) -> None:
    receiver = BroadcastReceiver(worker_context, broadcast_address(channels))
    connected = asyncio.create_task(until_version(receiver, 0))
    while not connected.done():
        broadcaster.send(ActiveJobs(0, []))
        await asyncio.sleep(0)
    last = 20_000
    for version in range(1, last + 1):  # more than all buffers hold
        broadcaster.send(ActiveJobs(version, ["job" * 10]))
    received = asyncio.create_task(until_version(receiver, last))
    async with asyncio.timeout(PATIENCE_S):
        while not received.done():
            broadcaster.send(ActiveJobs(last, ["job" * 10]))
            await asyncio.sleep(0)
    receiver.close()
    versions = [version for version in await received if version]
    assert versions == sorted(versions)
    assert len(set(versions)) < last  # some were lost indeed
