"""Which job or voice has made no step for longest, in heartbeats."""

from app.core.progress import Progress
from app.worker.stall_detector import StallDetector, Work

A, B, VOICE = Work(job="a"), Work(job="b"), Work(voice="v")


def test_moving_work_does_not_hide_work_that_stands_still() -> None:
    detector = StallDetector()
    moving, hanging = Progress(), Progress()
    for _ in range(4):
        moving.step()
        longest = detector.beat({A: moving, VOICE: hanging})
    assert longest == (3, VOICE)


def test_the_work_that_stopped_first_is_named() -> None:
    detector = StallDetector()
    first, second = Progress(), Progress()
    for _ in range(3):
        longest = detector.beat({B: second, A: first})
    assert longest == (2, A)


def test_work_that_has_waited_starts_anew() -> None:
    detector = StallDetector()
    waiting, moving = Progress(), Progress()
    for under_way in ({A: waiting}, {A: waiting}, {}, {A: waiting}):
        moving.step()
        beats, _ = detector.beat(under_way | {B: moving})
    assert beats == 0
    assert StallDetector().beat({}) == (0, Work())
