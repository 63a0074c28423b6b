import asyncio

import pytest

import app.backend.local.job_stream as stream_module
from app.backend.local.job_stream import JobStream, Restarted
from app.core.errors import EngineFailed, ServiceError, WorkerLost

PCM = b"\1\0" * 480


async def test_audio_comes_out_as_it_went_in() -> None:
    stream = JobStream()
    for number in range(3):
        stream.put(bytes([number]) * 4)
    stream.end()
    assert [await stream.read() for _ in range(4)] == [b"\0" * 4, b"\1" * 4, b"\2" * 4, None]
    assert await stream.read() is None


async def test_a_reader_waits_for_audio() -> None:
    stream = JobStream()
    reading = asyncio.create_task(stream.read())
    await asyncio.sleep(0)
    assert not reading.done()
    stream.put(PCM)
    assert await reading == PCM


async def test_a_waiting_reader_learns_of_the_end() -> None:
    stream = JobStream()
    reading = asyncio.create_task(stream.read())
    await asyncio.sleep(0)
    stream.end()
    assert await reading is None


async def test_an_error_overtakes_the_audio() -> None:
    stream = JobStream()
    stream.put(PCM)
    stream.end(EngineFailed("it failed"))
    for _ in range(2):
        with pytest.raises(EngineFailed, match="it failed"):
            await stream.read()


async def test_only_the_first_end_counts() -> None:
    complete, broken = JobStream(), JobStream()
    complete.end()
    complete.end(WorkerLost("too late"))
    assert await complete.read() is None
    broken.end(WorkerLost("lost"))
    broken.end()
    with pytest.raises(WorkerLost):
        await broken.read()


async def test_what_was_taken_is_reported_in_samples() -> None:
    stream = JobStream()
    taken: list[int] = []
    stream.on_consumed = lambda: taken.append(stream.consumed_samples)
    stream.put(PCM)
    stream.put(PCM[:20])
    assert taken == []
    await stream.read()
    await stream.read()
    assert taken == [480, 490]


async def test_a_stream_has_started_when_its_reader_says_so() -> None:
    stream = JobStream()
    stream.put(PCM)
    await stream.read()
    assert not stream.committed
    stream.commit()
    assert stream.committed


async def test_a_restart_forgets_everything_and_the_reader_is_told_once() -> None:
    stream = JobStream()
    stream.put(b"old!" * 2)
    stream.put(b"old!")
    await stream.read()
    stream.restart()
    stream.put(b"new!")
    stream.end()
    with pytest.raises(Restarted):
        await stream.read()
    assert [await stream.read(), await stream.read()] == [b"new!", None]


async def test_a_reader_that_waits_learns_of_a_restart() -> None:
    stream = JobStream()
    reading = asyncio.create_task(stream.read())
    await asyncio.sleep(0)
    stream.restart()
    with pytest.raises(Restarted):
        await reading


async def test_what_was_read_before_a_restart_cannot_be_started_with() -> None:
    stream = JobStream()
    stream.put(PCM)
    await stream.read()
    stream.restart()
    with pytest.raises(Restarted):
        stream.commit()
    assert not stream.committed
    stream.put(PCM)
    await stream.read()
    stream.commit()
    assert stream.committed


async def test_a_failed_stream_cannot_be_started() -> None:
    stream = JobStream()
    stream.put(PCM)
    await stream.read()
    stream.end(EngineFailed("it failed"))
    with pytest.raises(EngineFailed):
        stream.commit()
    assert not stream.committed


async def test_an_error_overtakes_a_restart() -> None:
    stream = JobStream()
    stream.restart()
    stream.end(WorkerLost("lost"))
    with pytest.raises(WorkerLost):
        await stream.read()


async def test_a_failure_is_told_to_who_does_not_read() -> None:
    stream = JobStream()
    told: list[ServiceError | None] = []
    stream.on_failed = lambda: told.append(stream.error)
    stream.put(PCM)
    assert told == []
    error = EngineFailed("it failed")
    stream.end(error)
    stream.end(WorkerLost("too late"))
    assert told == [error]


async def test_a_complete_end_is_no_failure_nor_is_one_after_the_reader_has_left() -> None:
    complete, left = JobStream(), JobStream()
    told: list[str] = []
    complete.on_failed = left.on_failed = lambda: told.append("failed")
    complete.end()
    left.close()
    left.end(EngineFailed("it failed"))
    assert told == []


async def test_what_is_taken_after_a_restart_is_counted_anew() -> None:
    stream = JobStream()
    taken: list[int] = []
    stream.on_consumed = lambda: taken.append(stream.consumed_samples)
    stream.put(PCM)
    await stream.read()
    stream.restart()
    stream.put(PCM[:20])
    with pytest.raises(Restarted):
        await stream.read()
    await stream.read()
    assert taken == [480, 10]


async def test_audio_counts_as_untaken_while_it_lies_there(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(stream_module, "monotonic", lambda: now)
    stream = JobStream()
    assert stream.unread_for_s(500.0) == 0
    now = 500.0
    stream.put(PCM)
    stream.put(PCM)
    assert stream.unread_for_s(503.0) == 3
    now = 504.0
    await stream.read()
    assert stream.unread_for_s(506.0) == 2
    await stream.read()
    assert stream.unread_for_s(900.0) == 0


async def test_closing_is_told_once() -> None:
    stream = JobStream()
    told: list[ServiceError | None] = []
    stream.on_close = told.append
    failure = EngineFailed("it failed")
    stream.close(failure)
    stream.close()
    assert told == [failure]


async def test_a_closed_stream_keeps_no_audio() -> None:
    stream = JobStream()
    stream.put(PCM)
    stream.end()
    stream.close()
    assert await stream.read() is None
