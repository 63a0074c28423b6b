from app.bench.speed.clock import Clock


def test_a_stage_is_told_without_what_ran_within_it() -> None:
    clock = Clock(lambda: None)
    with clock.runs("outer"):
        with clock.runs("inner"):
            busy = sum(range(2_000_000))
        with clock.runs("inner"):
            busy += sum(range(2_000_000))
    assert busy
    assert clock.seconds["inner"] > 20 * clock.seconds["outer"] > 0


def test_the_device_is_waited_for_at_every_border() -> None:
    waits: list[None] = []
    clock = Clock(lambda: waits.append(None))
    with clock.runs("outer"), clock.runs("inner"):
        assert len(waits) == 2
    assert len(waits) == 4
