"""The versions of a changing voice that a request may use."""

from time import monotonic

import pytest

from tests.soak.response_checks import Violation
from tests.soak.voices import VoiceHistory


def test_versions_before_during_and_after_a_change() -> None:
    history = VoiceHistory("a.wav")
    before = monotonic()
    with history.changing_to(7):
        during = monotonic()
    after = monotonic()
    assert history.between(before, before) == {None}
    assert history.between(during, during) == {None, 7}
    assert history.between(before, after) == {None, 7}
    assert history.between(after, after) == {7}
    assert history.current == 7


def test_older_version_does_not_reappear() -> None:
    history = VoiceHistory("a.wav")
    for voice in (1, 2, None, 3):
        with history.changing_to(voice):
            pass
    now = monotonic()
    assert history.between(now, now) == {3}


def test_a_change_that_failed_leaves_both_possible() -> None:
    history = VoiceHistory("a.wav")
    with pytest.raises(Violation), history.changing_to(1):
        raise Violation("no answer")
    assert history.between(monotonic(), monotonic()) == {None, 1}
