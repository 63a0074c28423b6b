"""Every message between the master and its workers, grouped by channel.

Each channel has one tagged union, so a decoder for a channel refuses anything else. Structs are
frozen: a message is a value. PCM never sits in a struct: it travels as the frame after it.
"""

from typing import Literal

import msgspec

OverlapMethod = Literal["full", "zero"]
T3Dtype = Literal["auto", "float32", "bfloat16", "int8"]
S3GenDtype = Literal["auto", "float32", "bfloat16"]

SAMPLE_RATE = 24_000
"""Of all audio between worker and client, in Hz; it is mono, int16 little-endian ("PCM")."""

BYTES_PER_SAMPLE = 2

TOKENS_PER_SECOND = 25
"""Speech tokens per second of audio, the unit of `audio_tokens_per_slice`."""


class Message(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """What all messages share."""


class SynthesisParams(msgspec.Struct, frozen=True):
    """How a text is to be spoken; one value from the HTTP request to the engine.

    Lengths are in characters (`text_processing_chunk_size`), in speech tokens of 40 ms
    (`audio_tokens_per_slice`) or in milliseconds, as their names say. A request without a `seed`
    gets a random one when it is accepted, so a retry says the same.
    """

    cfg_guidance_weight: float = 0.5
    synthesis_temperature: float = 0.8
    voice_exaggeration_factor: float = 0.5
    text_processing_chunk_size: int = 150
    audio_tokens_per_slice: int = 35
    remove_leading_milliseconds: int = 0
    remove_trailing_milliseconds: int = 0
    chunk_overlap_method: OverlapMethod = "full"
    crossfade_duration_milliseconds: int = 30
    seed: int = 0
    repetition_penalty: float = 1.2
    min_p: float = 0.05
    top_p: float = 1.0


class Tuning(msgspec.Struct, frozen=True):
    """How Chatterbox trades exactness for speed; one for all workers, so a retry says the same."""

    first_slice_tokens: int = 0
    slice_growth: float = 1.0
    voice_prompt_seconds: int = 10
    t3_dtype: T3Dtype = "auto"
    s3gen_dtype: S3GenDtype = "auto"
    s3gen_context_tokens: int = 0


# --- How a worker is told what it is: the first line of its standard input -------------------


class EngineConfig(msgspec.Struct, frozen=True):
    """What an engine may use and is asked for."""

    device: str  # "cpu", or "cuda": the one GPU that CUDA_VISIBLE_DEVICES leaves
    threads: int  # of the CPU
    model_path: str
    slots: int = 1  # jobs that may come at the same time
    watermark: bool = True  # whether speech is marked as synthetic
    torch_compile: bool = False  # whether the model is compiled, if the engine can
    tuning: Tuning = Tuning()  # means something to Chatterbox alone


class QueueSizes(msgspec.Struct, frozen=True):
    """How many items may wait between T3 and S3Gen, and between S3Gen and PCM."""

    slices: int
    audio: int


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
