"""Prometheus counters and histograms, updated by dispatcher, access log and encoders.

`protocols.native.metrics` exports them, with gauges of the current state. No label has values that
clients choose, so their number is bounded.
"""

from functools import partial

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)

from app.core.errors import JOB_ERRORS, ServiceError

DONE = "done"
CANCELLED = "cancelled"

_REQUEST_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_WAIT_S = (0.001, 0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60)
_FIRST_AUDIO_S = (
    *(0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 7.5),
    *(10, 20, 30, 60),
)
_LOOP_LAG_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_REALTIME_FACTOR = (
    *(0.02, 0.035, 0.05, 0.075, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9),
    *(1, 1.2, 1.5, 2, 3, 5, 10),
)


class Metrics:
    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # they would double the output
        self.registry = CollectorRegistry()
        self._counter = partial(Counter, registry=self.registry)
        self._histogram = partial(Histogram, registry=self.registry)
        ProcessCollector(registry=self.registry)  # of the master
        self._add_requests()
        self._add_jobs()
        self._add_playback()
        self._loop_lag = self._histogram(
            "tts_event_loop_lag_seconds",
            "How late the master's event loop ran a timer, several times a second.",
            buckets=_LOOP_LAG_S,
        )
        self._encoder_seconds = self._counter(
            "tts_encoder_cpu_seconds_total",
            "CPU time of encoders, by media type (wav and raw PCM take next to none).",
            ("media_type",),
        )

    def _add_requests(self) -> None:
        self._requests = self._counter(
            "tts_http_requests_total",
            "Requests that were answered, by route, method and status. Route other: no such path, "
            "or refused before a route was looked for (401). Status 499: the client left before "
            "the answer began.",
            ("route", "method", "status"),
        )
        self._request_seconds = self._histogram(
            "tts_http_request_duration_seconds",
            "Time from a request's headers to the end of its answer. Speech is streamed, so it "
            "takes as long as its client does.",
            ("route", "method"),
            buckets=_REQUEST_S,
        )
        self._requests_aborted = self._counter(
            "tts_http_requests_aborted_total",
            "Requests whose client left before the end of the answer.",
            ("route",),
        )
        self._unauthenticated = self._counter(
            "tts_unauthenticated_requests_total",
            "Requests that were refused, since their key was missing or wrong.",
        )

    def _add_jobs(self) -> None:
        self._job_wait = self._histogram(
            "tts_job_wait_seconds",
            "Time that accepted jobs waited in the queue, until a worker took them or they left.",
            buckets=_WAIT_S,
        )
        self._realtime_factor = self._histogram(
            "tts_job_realtime_factor",
            "Time that a worker took for a second of audio, of jobs that are done; under 1 is "
            "faster than speech. Pauses in which a job waits for a slow client do not count.",
            buckets=_REALTIME_FACTOR,
        )
        self._jobs = self._counter(
            "tts_jobs_total",
            "Accepted jobs that are over, by outcome: done, cancelled (the client left), or the "
            "code of the error.",
            ("outcome",),
        )
        failures = (error.code for error in JOB_ERRORS)
        for outcome in (DONE, CANCELLED, ServiceError.code, *failures):
            self._jobs.labels(outcome)
        self._characters = self._counter(
            "tts_characters_total", "Characters of the texts of jobs that are done."
        )

    def _add_playback(self) -> None:
        self._first_audio = self._histogram(
            "tts_job_first_audio_seconds",
            "Time from a job's acceptance to its first audio from a worker, without the encoder "
            "and the network.",
            buckets=_FIRST_AUDIO_S,
        )
        self._underruns = self._counter(
            "tts_underruns_total",
            "Playback gaps, assuming each job is played from the arrival of its first audio.",
        )
        self._underrun_seconds = self._counter(
            "tts_underrun_seconds_total", "Silence in these gaps, in the middle of speech."
        )

    def request_ended(
        self, route: str, method: str, status: int, seconds: float, *, aborted: bool
    ) -> None:
        """`aborted`: the client closed the connection."""
        self._requests.labels(route, method, status).inc()
        self._request_seconds.labels(route, method).observe(seconds)
        if aborted:
            self._requests_aborted.labels(route).inc()

    def request_unauthenticated(self) -> None:
        self._unauthenticated.inc()

    def job_waited(self, seconds: float) -> None:
        """To be called once for each job, also for those that never ran."""
        self._job_wait.observe(seconds)

    def first_audio(self, seconds: float) -> None:
        """Observe the time from a job's acceptance to its first audio."""
        self._first_audio.observe(seconds)

    def underrun(self, seconds: float) -> None:
        """Count a gap in the playback of a job, of this length."""
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

    def loop_lagged(self, seconds: float) -> None:
        self._loop_lag.observe(seconds)

    def encoded(self, media_type: str, seconds: float) -> None:
        """Add CPU time of an encoder; called in its thread."""
        self._encoder_seconds.labels(media_type).inc(seconds)
