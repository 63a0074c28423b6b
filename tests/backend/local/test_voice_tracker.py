"""Prepared voices per worker, and the blame for crashes during preparation."""

import pytest

from app.backend.local.voice_tracker import VoiceTracker
from app.ipc.messages import (
    Broadcast,
    PreparingVoice,
    VoiceDropped,
    VoiceFailed,
    VoicePrepared,
    Voices,
    VoicesKnown,
    WorkerFailed,
)


@pytest.fixture
def broadcasts() -> list[Broadcast]:
    return []


@pytest.fixture
def tracker(broadcasts: list[Broadcast]) -> VoiceTracker:
    tracker = VoiceTracker(broadcasts.append)
    tracker.set_voices(frozenset({"a", "b"}))
    return tracker


def crash(tracker: VoiceTracker, digest: str, times: int = 1) -> None:
    for _ in range(times):
        tracker.handle("w", PreparingVoice(digest))
        tracker.worker_exited("w", None)


def last_crashed(broadcasts: list[Broadcast]) -> frozenset[str]:
    """Return the crashed voices of the last broadcast."""
    voices = broadcasts[-1]
    assert isinstance(voices, Voices)
    assert voices.digests == {"a", "b"}
    return voices.crashed


def test_nothing_is_broadcast_before_the_voices_are_set() -> None:
    broadcasts: list[Broadcast] = []
    tracker = VoiceTracker(broadcasts.append)
    tracker.handle("w", VoicesKnown(0))
    tracker.repeat()
    assert broadcasts == []
    assert not tracker.known


def test_voices_are_repeated_until_each_worker_has_received_them(
    tracker: VoiceTracker, broadcasts: list[Broadcast]
) -> None:
    [sent] = broadcasts
    tracker.repeat()
    assert broadcasts == [sent]  # no worker listens
    tracker.handle("1", VoicesKnown(0))
    tracker.handle("2", VoicesKnown(sent.version))
    tracker.repeat()
    assert broadcasts == [sent] * 3
    tracker.handle("1", VoicesKnown(sent.version))
    tracker.repeat()
    assert len(broadcasts) == 3
    tracker.set_voices(frozenset({"a", "b"}))  # as after a lost file was decoded again
    assert broadcasts[-1].version > sent.version
    tracker.worker_exited("1", None)
    tracker.worker_exited("2", None)
    tracker.repeat()
    assert len(broadcasts) == 4


def test_prepared_voices_are_counted_per_worker_until_it_exits(tracker: VoiceTracker) -> None:
    for worker in ("1", "2"):
        for digest in ("a", "b"):
            tracker.handle(worker, PreparingVoice(digest))
            tracker.handle(worker, VoicePrepared(digest))
    tracker.handle("2", VoiceDropped("b"))
    assert (tracker.prepared("1"), tracker.prepared("2")) == ({"a", "b"}, {"a"})
    tracker.worker_exited("1", None)
    assert (tracker.prepared("1"), tracker.prepared("2")) == (frozenset(), {"a"})


@pytest.mark.parametrize(
    ("times", "crashed", "poison"),
    [(1, set(), False), (2, {"a"}, False), (3, {"a"}, False), (4, {"a"}, True), (5, {"a"}, True)],
)
def test_voice_that_crashed_workers_is_not_prepared_unasked_and_then_poison(
    tracker: VoiceTracker,
    broadcasts: list[Broadcast],
    times: int,
    crashed: set[str],
    poison: bool,
) -> None:
    crash(tracker, "a", times)
    assert last_crashed(broadcasts) == crashed
    assert tracker.is_poison("w", "a") == poison
    assert not tracker.is_poison("w", "b")
    assert not tracker.is_poison("w", None)


def test_voice_is_no_poison_for_a_worker_that_has_it_prepared(tracker: VoiceTracker) -> None:
    tracker.handle("lucky", VoicePrepared("a"))
    crash(tracker, "a", 4)
    assert not tracker.is_poison("lucky", "a")
    assert tracker.is_poison("w", "a")


def test_success_resets_the_count_at_once(
    tracker: VoiceTracker, broadcasts: list[Broadcast]
) -> None:
    crash(tracker, "a", 4)
    tracker.handle("w", PreparingVoice("a"))
    tracker.handle("w", VoicePrepared("a"))
    assert last_crashed(broadcasts) == frozenset()
    tracker.worker_exited("w", None)
    assert not tracker.is_poison("w", "a")
    crash(tracker, "a", 3)
    assert not tracker.is_poison("w", "a")


def test_failed_preparation_is_no_crash(tracker: VoiceTracker) -> None:
    for _ in range(5):
        tracker.handle("w", PreparingVoice("a"))
        tracker.handle("w", VoiceFailed("a"))
        tracker.worker_exited("w", None)
    assert not tracker.is_poison("w", "a")


@pytest.mark.parametrize(("reported", "blamed"), [("b", {"b"}), (None, set())])
def test_exit_report_names_the_voice_to_blame(
    tracker: VoiceTracker, broadcasts: list[Broadcast], reported: str | None, blamed: set[str]
) -> None:
    for _ in range(2):
        tracker.handle("w", PreparingVoice("a"))
        tracker.worker_exited("w", WorkerFailed("broken", voice=reported))
    assert last_crashed(broadcasts) == blamed
