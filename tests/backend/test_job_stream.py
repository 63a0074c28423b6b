import asyncio

import pytest

import app.backend.job_stream as stream_module
from app.backend.job_stream import JobStream, Restarted
from app.core.errors import EngineFailed, ServiceError, WorkerLost

PCM = b"\1\0" * 480


async def test_audio_is_read_in_the_order_it_was_put() -> None:
    stream = JobStream()
    for number in range(3):
        stream.put(bytes([number]) * 4)
    stream.end()
    assert [await stream.read() for _ in range(4)] == [b"\0" * 4, b"\1" * 4, b"\2" * 4, None]
    assert await stream.read() is None


async def test_reader_waits_for_audio() -> None:
    stream = JobStream()
    reading = asyncio.create_task(stream.read())
    await asyncio.sleep(0)
    assert not reading.done()
    stream.put(PCM)
    assert await reading == PCM


async def test_end_wakes_a_waiting_reader() -> None:
    stream = JobStream()
    reading = asyncio.create_task(stream.read())
    await asyncio.sleep(0)
    stream.end()
    assert await reading is None


async def test_error_overtakes_unread_audio() -> None:
    stream = JobStream()
    stream.put(PCM)
    stream.end(EngineFailed("it failed"))
    for _ in range(2):
        with pytest.raises(EngineFailed, match="it failed"):
            await stream.read()


async def test_only_the_first_end_has_an_effect() -> None:
    complete, broken = JobStream(), JobStream()
    complete.end()
    complete.end(WorkerLost("too late"))
    assert await complete.read() is None
    broken.end(WorkerLost("lost"))
    broken.end()
    with pytest.raises(WorkerLost):
        await broken.read()


async def test_consumed_audio_is_counted_in_samples() -> None:
    stream = JobStream()
    consumed: list[int] = []
    stream.on_consumed = lambda: consumed.append(stream.consumed_samples)
    stream.put(PCM)
    stream.put(PCM[:20])
    assert consumed == []
    await stream.read()
    await stream.read()
    assert consumed == [480, 490]


async def test_reader_commits_the_stream() -> None:
    stream = JobStream()
    stream.put(PCM)
    await stream.read()
    assert not stream.committed
    stream.commit()
    assert stream.committed


async def test_restart_discards_all_audio_and_is_raised_once() -> None:
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


async def test_restart_wakes_a_waiting_reader() -> None:
    stream = JobStream()
    reading = asyncio.create_task(stream.read())
    await asyncio.sleep(0)
    stream.restart()
    with pytest.raises(Restarted):
        await reading


async def test_restart_prevents_commit_once() -> None:
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


async def test_failed_stream_cannot_be_committed() -> None:
    stream = JobStream()
    stream.put(PCM)
    await stream.read()
    stream.end(EngineFailed("it failed"))
    with pytest.raises(EngineFailed):
        stream.commit()
    assert not stream.committed


async def test_error_overtakes_a_restart() -> None:
    stream = JobStream()
    stream.restart()
    stream.end(WorkerLost("lost"))
    with pytest.raises(WorkerLost):
        await stream.read()


async def test_failure_calls_on_failed_once() -> None:
    stream = JobStream()
    calls: list[ServiceError | None] = []
    stream.on_failed = lambda: calls.append(stream.error)
    stream.put(PCM)
    assert calls == []
    error = EngineFailed("it failed")
    stream.end(error)
    stream.end(WorkerLost("too late"))
    assert calls == [error]


async def test_complete_end_and_failure_after_close_do_not_call_on_failed() -> None:
    complete, left = JobStream(), JobStream()
    calls: list[str] = []
    complete.on_failed = left.on_failed = lambda: calls.append("failed")
    complete.end()
    left.close()
    left.end(EngineFailed("it failed"))
    assert calls == []


async def test_restart_resets_the_consumed_samples() -> None:
    stream = JobStream()
    consumed: list[int] = []
    stream.on_consumed = lambda: consumed.append(stream.consumed_samples)
    stream.put(PCM)
    await stream.read()
    stream.restart()
    stream.put(PCM[:20])
    with pytest.raises(Restarted):
        await stream.read()
    await stream.read()
    assert consumed == [480, 10]


async def test_unread_time_is_measured_while_there_is_audio(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
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


async def test_close_calls_on_close_once() -> None:
    stream = JobStream()
    calls: list[ServiceError | None] = []
    stream.on_close = calls.append
    failure = EngineFailed("it failed")
    stream.close(failure)
    stream.close()
    assert calls == [failure]


async def test_closed_stream_keeps_no_audio() -> None:
    stream = JobStream()
    stream.put(PCM)
    stream.end()
    stream.close()
    assert await stream.read() is None
