"""Every message between the backend and its workers, grouped by channel.

Each channel has one tagged union, so a decoder for a channel refuses anything else. Structs are
frozen: a message is a value. PCM never sits in a struct: it travels as the frame after it.
"""

import msgspec

from app.core.engine_config import EngineConfig, QueueSizes
from app.core.model import ModelInfo
from app.core.params import SynthesisParams
from app.core.resume_point import BEGINNING, ResumePoint


class Message(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Base class of all messages; the tag is the class name."""


# --- The first message on the control socket -------------------------------------------------


class WorkerConfig(msgspec.Struct, frozen=True):
    """Everything a worker process needs to start; it reads no settings of its own."""

    name: str  # of the managed worker, shown to operators: "gpu0.1"
    incarnation: int  # unique within the backend's life; names the process's two sockets
    engine: str  # a name or an import path, see engines.registry
    engine_config: EngineConfig
    queues: QueueSizes
    channels_dir: str  # holds the sockets
    voices_dir: str  # holds the decoded voices, one file per digest
    log_level: str


# --- Jobs: backend → one worker (PUSH/PULL) ---------------------------------------------------


class Synthesize(Message, frozen=True):
    """Synthesize `text`. `voice` is the digest of a decoded voice; None is the engine's own.

    A worker does not cancel this job because of an `ActiveJobs` older than `active_version`.
    `credit`: the first `Credit.samples`. `alone`: a worker may have died of this job, so no voice
    is to be prepared for others beside it. A job that was preempted goes on at `resume_point`,
    after the `chunks` and `samples` that it has sent. `recording`: the file, beside the voices, of
    speech to convert, in place of a text.
    """

    job: str
    text: str
    voice: str | None
    params: SynthesisParams
    active_version: int
    credit: int
    alone: bool = False
    chunks: int = 0
    samples: int = 0
    resume_point: ResumePoint = BEGINNING
    recording: str | None = None


class Credit(Message, frozen=True):
    """Allow the job to send `samples` samples in total; repeated or old messages are harmless."""

    job: str
    samples: int


class Preempt(Message, frozen=True):
    """Other jobs wait: give the slot up after the text chunk in progress, which needs no credit."""

    job: str


ToWorker = Synthesize | Credit | Preempt


# --- Broadcast: backend → all workers (PUB/SUB), state repeated twice a second ----------------


class ActiveJobs(Message, frozen=True):
    """All jobs that run on some worker. Workers cancel a job that is not listed."""

    version: int
    jobs: list[str]


class Voices(Message, frozen=True):
    """The digests of all voices. A worker prepares new ones and drops those not listed.

    Workers have crashed while preparing those in `crashed`: prepare them only if a job needs them.
    Repeated until each worker has answered with a `VoicesKnown` of this `version`.
    """

    digests: frozenset[str]
    crashed: frozenset[str] = frozenset()
    version: int = 0


class Drain(Message, frozen=True):
    """No further job will come; exit when the running ones are done."""


Broadcast = ActiveJobs | Voices | Drain


# --- Reports: a worker → backend (control socket) -----------------------------------------------
# They arrive even if the process crashes right after sending them.


class JobStarted(Message, frozen=True):
    """The engine is about to be called: if the process dies now, the job may be the cause."""

    job: str


class PreparingVoice(Message, frozen=True):
    """Preparation of a voice begins: if the process dies now, the voice may be the cause."""

    digest: str


class VoicePrepared(Message, frozen=True):
    """Preparation succeeded; the voice is kept until `VoiceDropped`."""

    digest: str


class VoiceFailed(Message, frozen=True):
    """Preparation failed, and the process survived."""

    digest: str


class VoiceDropped(Message, frozen=True):
    """A prepared voice was dropped."""

    digest: str


class VoicesKnown(Message, frozen=True):
    """The version of the latest `Voices` that arrived; 0 if none has."""

    version: int


VoiceReport = PreparingVoice | VoicePrepared | VoiceFailed | VoiceDropped | VoicesKnown
Report = JobStarted | VoiceReport


# --- Results: a worker → backend (PUSH/PULL) ----------------------------------------------------
# Each incarnation of a worker has its own socket, so messages of a dead one cannot be confused.


class WorkerStarting(Message, frozen=True):
    """The start-up phase, as the end of a sentence: "loads the model"."""

    phase: str


class WorkerReady(Message, frozen=True):
    """Model loaded and warmed up, voices prepared as far as a few seconds allow."""

    model: ModelInfo


class WorkerFailed(Message, frozen=True):
    """The last message of a worker that cannot start or go on.

    `job`, `voice`: what the worker was processing when the device failed or the work stood still;
    no others are suspects.
    """

    message: str
    job: str | None = None
    voice: str | None = None


class Heartbeat(Message, frozen=True):
    """Sent once a second. `steps`: all work done since the start of the process.

    `idle_s`: the longest time that any work under way has made no step, that of `job` or of the
    preparation of `voice`. A job that waits for credit or for its voice is not under way.
    `runaways`: text chunks cut so far.
    """

    steps: int
    idle_s: float = 0.0
    job: str | None = None
    voice: str | None = None
    runaways: int = 0


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
    """The job ended with the error from `core.errors` that has this code."""

    job: str
    code: str
    message: str
    param: str | None = None


class JobCancelled(Message, frozen=True):
    """The job was cancelled, and its work has stopped."""

    job: str


class JobPreempted(Message, frozen=True):
    """The job gave its slot up after a text chunk; the totals must match what arrived."""

    job: str
    chunks: int
    samples: int
    resume_point: ResumePoint


JobResult = AudioChunk | JobDone | JobFailed | JobCancelled | JobPreempted
Result = WorkerStarting | WorkerReady | WorkerFailed | Heartbeat | JobResult
