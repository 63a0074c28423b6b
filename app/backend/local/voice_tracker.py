"""Tracks which worker has prepared which voice, and the voices that workers crashed on.

Managed workers pass it their processes' voice reports; the dispatcher queries it before assigning a
job, the backend for its status. Its broadcast lists the voices that workers prepare.
"""

from collections import defaultdict
from collections.abc import Callable, Set

from app.core.retry_budget import RetryBudget
from app.ipc.messages import (
    Broadcast,
    PreparingVoice,
    VoiceDropped,
    VoiceFailed,
    VoicePrepared,
    VoiceReport,
    Voices,
    VoicesKnown,
    WorkerFailed,
)

MAX_CRASHES_EAGER = 2
"""After this many crashes, workers prepare a voice only if a job needs it."""

MAX_VOICE_CRASHES = 4
"""After this many crashes, jobs with the voice are refused; one success resets the count."""


class VoiceTracker:
    """Knows voices by digest and workers by id."""

    def __init__(self, broadcast: Callable[[Broadcast], None]) -> None:
        self._broadcast = broadcast
        self._digests: frozenset[str] | None = None
        self._version = 0
        self._known_by: dict[str, int] = {}  # the version that each worker has received
        self._crashes = RetryBudget[str](MAX_VOICE_CRASHES)
        self._crashed: frozenset[str] = frozenset()
        self._preparing: dict[str, str] = {}
        self._prepared: defaultdict[str, set[str]] = defaultdict(set)

    def set_voices(self, digests: frozenset[str]) -> None:
        """Have workers prepare these, also those whose decoded audio they did not find before."""
        self._digests = digests
        self._changed()

    @property
    def known(self) -> bool:
        """Whether the voices have been set: workers take the first list as complete."""
        return self._digests is not None

    def repeat(self) -> None:
        """Broadcast the voices if a worker has not received them: the list may be long."""
        if any(version != self._version for version in self._known_by.values()):
            self._publish()

    def _changed(self) -> None:
        self._version += 1
        self._publish()

    def _publish(self) -> None:
        if self._digests is not None:
            self._broadcast(Voices(self._digests, self._crashed, self._version))

    @property
    def preparing(self) -> bool:
        """Whether a worker prepares a voice."""
        return bool(self._preparing)

    def prepared(self, worker: str) -> Set[str]:
        """A copy, since `/system-status` reads it on a thread."""
        return frozenset(self._prepared.get(worker, ()))

    def is_poison(self, worker: str, voice: str | None) -> bool:
        """Tell whether a job must be refused because its voice crashed too many workers."""
        return (
            voice is not None
            and self._crashes.exhausted(voice)
            and voice not in self._prepared.get(worker, ())
        )

    def handle(self, worker: str, message: VoiceReport) -> None:
        match message:
            case PreparingVoice(digest):
                self._preparing[worker] = digest
            case VoicePrepared(digest):
                self._preparing.pop(worker, None)
                self._prepared[worker].add(digest)
                self._reset_crashes(digest)
            case VoiceFailed():
                self._preparing.pop(worker, None)
            case VoiceDropped(digest):
                self._prepared[worker].discard(digest)
            case VoicesKnown(version):
                self._known_by[worker] = version
                if version == 0:  # it has just subscribed
                    self.repeat()

    def worker_exited(self, worker: str, exit_report: WorkerFailed | None) -> None:
        """Count a crash for the voice in the report or, without one, the voice in preparation."""
        self._prepared.pop(worker, None)
        self._known_by.pop(worker, None)
        preparing = self._preparing.pop(worker, None)
        blamed = exit_report.voice if exit_report else preparing
        if blamed is None:
            return
        self._crashes.record(blamed)
        if self._crashes.count(blamed) >= MAX_CRASHES_EAGER:
            self._crashed |= {blamed}
            self._changed()

    def _reset_crashes(self, digest: str) -> None:
        self._crashes.clear(digest)
        if digest in self._crashed:
            self._crashed -= {digest}
            self._changed()
