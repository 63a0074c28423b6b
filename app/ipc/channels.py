"""Typed ZeroMQ sockets over `ipc://`, one class for each end of each channel.

Messages are msgpack of the channel's tagged union; those that do not decode are counted and
dropped. Addresses are files in a private folder of the master. Job and result sockets belong to
one incarnation of a worker; closing them discards everything that it sent.

The master's ends never wait: they send at once or not at all, and pass received messages to a
callback. The workers' ends are awaited.
"""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import msgspec
import zmq
import zmq.asyncio
from zmq.utils.monitor import parse_monitor_message

from app.ipc.messages import Broadcast, Result, ToWorker

log = logging.getLogger(__name__)

M = TypeVar("M")
_encode = msgspec.msgpack.Encoder().encode
_JUNK = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

HIGH_WATER_MARK = 1000
"""Messages that a socket queues in each direction; each `send` describes what happens beyond."""

MAX_FRAME_BYTES = 64 * 1024 * 1024
COPY_BELOW_BYTES = 65_536
MESSAGES_PER_TURN = 100
"""After this many messages in a row, other callbacks of the event loop run."""

_EVENTS, _POLLIN, _NOBLOCK = int(zmq.EVENTS), int(zmq.POLLIN), int(zmq.NOBLOCK)
"""As integers, because the flag enums are slow and these are used for each audio chunk."""


def jobs_address(channels: Path, incarnation: int) -> str:
    return f"ipc://{channels}/jobs-{incarnation}"


def results_address(channels: Path, incarnation: int) -> str:
    return f"ipc://{channels}/results-{incarnation}"


def broadcast_address(channels: Path) -> str:
    return f"ipc://{channels}/broadcast"


def _set_up(socket: "zmq.Socket[Any]") -> None:
    socket.set(zmq.LINGER, 0)
    socket.set(zmq.SNDHWM, HIGH_WATER_MARK)
    socket.set(zmq.RCVHWM, HIGH_WATER_MARK)
    socket.set(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)


# --- the master's ends --------------------------------------------------------------------------


def _close_bound(socket: "zmq.Socket[Any]") -> None:
    address = socket.get_string(zmq.LAST_ENDPOINT)
    socket.close()  # which leaves the file of a bound socket
    Path(address.removeprefix("ipc://")).unlink(missing_ok=True)


class _Sender:
    kind: ClassVar[int]

    def __init__(self, context: "zmq.Context[Any]", address: str) -> None:
        self._socket = context.socket(self.kind)
        _set_up(self._socket)
        self._socket.bind(address)
        self._path = Path(address.removeprefix("ipc://"))

    def close(self) -> None:
        _close_bound(self._socket)


class JobSender(_Sender):
    """The job channel of one worker."""

    kind = zmq.PUSH

    def send(self, message: ToWorker) -> bool:
        """False if the worker has `HIGH_WATER_MARK` messages unread or is not connected."""
        try:
            self._socket.send(_encode(message), zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True


class Broadcaster(_Sender):
    """The broadcast channel. It loses messages, so callers repeat the state."""

    kind = zmq.PUB

    def repair(self) -> None:
        """Bind again if the socket's file or its folder was removed: new workers look for it."""
        if not self._path.exists():
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._socket.bind(f"ipc://{self._path}")

    def send(self, message: Broadcast) -> None:
        """A subscriber with a full buffer misses the message."""
        self._socket.send(_encode(message), zmq.NOBLOCK)


class ResultReceiver:
    """The results channel of one worker; calls `on_result(message, pcm)` on the event loop.

    `pcm` is empty for all but `AudioChunk`.
    """

    def __init__(
        self,
        context: "zmq.Context[Any]",
        address: str,
        on_result: Callable[[Result, bytes], None],
    ) -> None:
        self._on_result = on_result
        self._decode = msgspec.msgpack.Decoder(Result).decode
        self._junk = 0
        self._socket = context.socket(zmq.PULL)
        _set_up(self._socket)
        # With a high-water mark, ZeroMQ would discard what a dead worker left in the kernel.
        self._socket.set(zmq.RCVHWM, 0)  # credit limits the amount
        self._monitor = self._socket.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
        )
        self._connected = False
        self._disconnected = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket.get(zmq.FD), self._receive)
        self._loop.add_reader(self._monitor.get(zmq.FD), self._watch)
        self._socket.bind(address)

    async def finish(self) -> None:
        """After the worker's exit: wait until everything it sent has been passed on."""
        self._watch()
        if self._connected:
            await self._disconnected.wait()
        while self._receive():
            pass

    def close(self) -> None:
        self._loop.remove_reader(self._monitor.get(zmq.FD))
        self._loop.remove_reader(self._socket.get(zmq.FD))
        self._socket.disable_monitor()
        self._monitor.close()
        _close_bound(self._socket)

    def _receive(self) -> bool:
        """Pass on what has arrived. Returns True if there may be more, which is then scheduled.

        A ZeroMQ descriptor is edge-triggered: it must be read until nothing is left.
        """
        for _ in range(MESSAGES_PER_TURN):
            if self._socket.closed or not self._socket.get(_EVENTS) & _POLLIN:
                return False
            header, *rest = self._socket.recv_multipart(_NOBLOCK)
            try:
                message = self._decode(header)
            except _JUNK as error:
                self._junk += 1
                log.warning("dropped message %d that does not decode: %s", self._junk, error)
                continue
            self._on_result(message, rest[0] if rest else b"")
        self._loop.call_soon(self._receive)
        return True

    def _watch(self) -> None:
        while not self._monitor.closed and self._monitor.get(zmq.EVENTS) & zmq.POLLIN:
            event = parse_monitor_message(self._monitor.recv_multipart(zmq.NOBLOCK))
            if event["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._connected = True
            else:
                self._disconnected.set()


# --- a worker's ends ----------------------------------------------------------------------------


class ResultSender:
    """The results channel."""

    def __init__(self, context: zmq.asyncio.Context, address: str) -> None:
        self._socket = context.socket(zmq.PUSH)
        _set_up(self._socket)
        self._socket.connect(address)

    async def send(self, message: Result, pcm: bytes | None = None) -> None:
        """Waits while `HIGH_WATER_MARK` messages are unsent."""
        frames = [_encode(message)] if pcm is None else [_encode(message), pcm]
        copy = pcm is None or len(pcm) < COPY_BELOW_BYTES
        await self._socket.send_multipart(frames, copy=copy)

    def close(self, linger_ms: int) -> None:
        """Unsent messages have `linger_ms` to leave while the context terminates."""
        self._socket.close(linger=linger_ms)


class _Receiver(Generic[M]):
    kind: ClassVar[int]
    messages: ClassVar[Any]

    def __init__(self, context: zmq.asyncio.Context, address: str) -> None:
        self._decode = msgspec.msgpack.Decoder(self.messages).decode
        self._socket = context.socket(self.kind)
        _set_up(self._socket)
        if self.kind == zmq.SUB:
            self._socket.subscribe(b"")
        self._socket.connect(address)

    async def receive(self) -> M:
        """The next message that decodes; others are dropped."""
        while True:
            frame = await self._socket.recv()
            try:
                message: M = self._decode(frame)
            except _JUNK as error:
                log.warning("dropped a message that does not decode: %s", error)
                continue
            return message

    def close(self) -> None:
        self._socket.close()


class JobReceiver(_Receiver[ToWorker]):
    """This worker's job channel."""

    kind, messages = zmq.PULL, ToWorker


class BroadcastReceiver(_Receiver[Broadcast]):
    """The broadcast channel."""

    kind, messages = zmq.SUB, Broadcast
