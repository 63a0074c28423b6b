"""Every message between the master and its workers, grouped by channel.

Each channel has one tagged union, so a decoder for a channel refuses anything else. Structs are
frozen: a message is a value. PCM never sits in a struct: it travels as the frame after it.
"""

import msgspec

from app.core.engine_config import EngineConfig, QueueSizes
from app.core.params import SynthesisParams


class Message(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """What all messages share."""


# --- How a worker is told what it is: the first line of its standard input -------------------


class WorkerConfig(msgspec.Struct, frozen=True):
    """Everything a worker process needs to start; it reads no settings of its own."""

    name: str  # of the seat it fills, for people: "gpu0.1"
    incarnation: int  # unique within the master's life; names its two sockets
    engine: str  # a name or an import path, see engines.registry
    engine_config: EngineConfig
    queues: QueueSizes
    channels: str  # folder of the sockets
    voices: str  # folder of decoded voices, one file per digest
    log_level: str


# --- Jobs: master → one worker (PUSH/PULL) ----------------------------------------------------


class Synthesize(Message, frozen=True):
    """Speak `text`. `voice` is the digest of a decoded voice; None is the engine's own.

    `live_version`: the job counts as live from that `LiveJobs` version on. Its worker answers
    `JobReceived` and begins at the first `Credit`.
    """

    job: str
    text: str
    voice: str | None
    params: SynthesisParams
    live_version: int


class Credit(Message, frozen=True):
    """The job may have sent `samples` samples *in all*; a repeated or old one does no harm.

    The first one lets it begin.
    """

    job: str
    samples: int


ToWorker = Synthesize | Credit


# --- Broadcast: master → all workers (PUB/SUB), state repeated twice a second ----------------


class LiveJobs(Message, frozen=True):
    """All jobs that are on some worker and still wanted. One that is not listed is cancelled."""

    version: int
    jobs: list[str]


class Voices(Message, frozen=True):
    """The digests of all voices. A worker prepares what is new and drops what is gone."""

    digests: frozenset[str]


class Drain(Message, frozen=True):
    """No further job will come; leave when the running ones are done."""


Broadcast = LiveJobs | Voices | Drain


# --- Results: a worker → master (PUSH/PULL) -----------------------------------------------------
# Each incarnation of a worker has a socket of its own, so nothing of a dead one can be mistaken.


class WorkerStarting(Message, frozen=True):
    """What a worker does now that is not ready yet, as the end of a sentence: "loads the model"."""

    doing: str


class WorkerReady(Message, frozen=True):
    """Model loaded, warmed up, every voice of the first `Voices` prepared."""

    model: str
    clones_voices: bool
    compiled: bool
    notice: str | None = None  # what whoever runs the service should know of it


class WorkerFailed(Message, frozen=True):
    """The last message of a worker that cannot start or go on.

    `job`: the one that met a device which has failed. No other is to blame.
    """

    message: str
    job: str | None = None


class Heartbeat(Message, frozen=True):
    """Once a second. `steps` stands still while `working` jobs should move: the worker hangs.

    A job that waits for credit is not `working`. `runaways`: text chunks cut so far.
    """

    steps: int
    working: int
    runaways: int = 0


class JobReceived(Message, frozen=True):
    """Should the worker die from now on, the job may be why."""

    job: str


class AudioChunk(Message, frozen=True):
    """The next frame holds PCM (int16 little-endian, mono); `seq` counts from 0 without a gap."""

    job: str
    seq: int


class JobDone(Message, frozen=True):
    """The job is complete; the totals must match what arrived."""

    job: str
    chunks: int
    samples: int


class JobFailed(Message, frozen=True):
    """The job ended with an error from `errors`, named by its code."""

    job: str
    code: str
    message: str
    param: str | None = None


class JobCancelled(Message, frozen=True):
    """The job was no longer wanted, and its work has really stopped."""

    job: str


JobResult = JobReceived | AudioChunk | JobDone | JobFailed | JobCancelled
Result = WorkerStarting | WorkerReady | WorkerFailed | Heartbeat | JobResult
