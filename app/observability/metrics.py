"""The metrics: what happens is told here, and kept for whoever asks for `/metrics`.

Told by the dispatcher (jobs), the request log (requests) and the speech response (encoding), with
one call each. `api.routes.metrics` shows them, and beside them how things stand at that moment.
Nothing that a client can choose is a label.
"""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)

from app.core.errors import (
    ClientStalled,
    Draining,
    EncoderFailed,
    EngineFailed,
    NotReady,
    OutOfMemory,
    PoisonRequest,
    QueueTimeout,
    ServiceError,
    WorkerLost,
    WorkerStalled,
)

DONE = "done"
CANCELLED = "cancelled"

_FAILURES = (
    *(ClientStalled, Draining, EncoderFailed, EngineFailed, NotReady, OutOfMemory, PoisonRequest),
    *(QueueTimeout, ServiceError, WorkerLost, WorkerStalled),
)
"""What jobs fail with, as a rule: counted from 0, so that the first one is a rise."""

_REQUEST_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_WAIT_S = (0.001, 0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60)
_FIRST_AUDIO_S = (
    *(0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 7.5),
    *(10, 20, 30, 60),
)
_REALTIME_FACTOR = (
    0.02,
    0.035,
    0.05,
    0.075,
    0.1,
    0.2,
    0.3,
    0.5,
    0.7,
    0.9,
    1,
    1.2,
    1.5,
    2,
    3,
    5,
    10,
)


class Metrics:
    """All that is counted and timed; `registry` hands it out."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # they would double the lines
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # of the master
        self._requests = Counter(
            "tts_http_requests_total",
            "Requests that were answered, by route, method and status. Route other: no such path, "
            "or refused before a route was looked for (401). Status 499: the client left before "
            "the answer began.",
            ["route", "method", "status"],
            registry=self.registry,
        )
        self._request_seconds = Histogram(
            "tts_http_request_duration_seconds",
            "Time from a request's headers to the end of its answer. Speech is streamed, so it "
            "takes as long as its client does.",
            ["route", "method"],
            buckets=_REQUEST_S,
            registry=self.registry,
        )
        self._requests_aborted = Counter(
            "tts_http_requests_aborted_total",
            "Requests whose client left before the end of the answer.",
            ["route"],
            registry=self.registry,
        )
        self._job_wait = Histogram(
            "tts_job_wait_seconds",
            "Time that accepted jobs waited in the queue, until a worker took them or they left.",
            buckets=_WAIT_S,
            registry=self.registry,
        )
        self._first_audio = Histogram(
            "tts_job_first_audio_seconds",
            "Time from a job's acceptance to its first audio from a worker: what a listener waits "
            "for, but for the encoder and the network.",
            buckets=_FIRST_AUDIO_S,
            registry=self.registry,
        )
        self._realtime_factor = Histogram(
            "tts_job_realtime_factor",
            "Time that a worker took for a second of audio, of jobs that are done; under 1 is "
            "faster than speech. Pauses in which a job waits for a slow client do not count.",
            buckets=_REALTIME_FACTOR,
            registry=self.registry,
        )
        self._jobs = Counter(
            "tts_jobs_total",
            "Accepted jobs that are over, by outcome: done, cancelled (the client left), or the "
            "code of the error.",
            ["outcome"],
            registry=self.registry,
        )
        self._characters = Counter(
            "tts_characters_total",
            "Characters of the texts of jobs that are done.",
            registry=self.registry,
        )
        self._underruns = Counter(
            "tts_underruns_total",
            "Times that a listener would have run dry, who plays each job from its first audio on "
            "as it leaves the worker.",
            registry=self.registry,
        )
        self._underrun_seconds = Counter(
            "tts_underrun_seconds_total",
            "Silence that these listeners would have heard in the middle of speech.",
            registry=self.registry,
        )
        self._encoder_seconds = Counter(
            "tts_encoder_cpu_seconds_total",
            "CPU time of encoders, by what they make (wav and raw PCM take none to speak of).",
            ["media_type"],
            registry=self.registry,
        )
        for outcome in (DONE, CANCELLED, *(failure.code for failure in _FAILURES)):
            self._jobs.labels(outcome)

    def request_ended(
        self, route: str, method: str, status: int, seconds: float, *, aborted: bool
    ) -> None:
        """`aborted`: by its client."""
        self._requests.labels(route, method, status).inc()
        self._request_seconds.labels(route, method).observe(seconds)
        if aborted:
            self._requests_aborted.labels(route).inc()

    def job_waited(self, seconds: float) -> None:
        """Once for each job, whether it ever ran or not."""
        self._job_wait.observe(seconds)

    def first_audio(self, seconds: float) -> None:
        """So long after a job was accepted, its first audio came."""
        self._first_audio.observe(seconds)

    def underrun(self, seconds: float) -> None:
        """Audio came so much later than a listener would have needed it."""
        self._underruns.inc()
        self._underrun_seconds.inc(seconds)

    def job_done(self, characters: int, audio_s: float, work_s: float) -> None:
        self._jobs.labels(DONE).inc()
        self._characters.inc(characters)
        if audio_s:
            self._realtime_factor.observe(work_s / audio_s)

    def job_failed(self, outcome: str) -> None:
        """`outcome`: the error's code, or `CANCELLED`."""
        self._jobs.labels(outcome).inc()

    def encoded(self, media_type: str, seconds: float) -> None:
        """CPU time of a piece of one; called in its thread."""
        self._encoder_seconds.labels(media_type).inc(seconds)
