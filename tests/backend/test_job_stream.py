import asyncio

import pytest

from app.backend.job_stream import JobStream, Restarted
from app.core.audio import BYTES_PER_SAMPLE
from app.core.errors import EngineFailed, ServiceError, WorkerLost

PCM = b"\1\0" * 480


async def test_audio_is_read_in_order_and_counted_in_samples() -> None:
    stream, consumed = JobStream(), list[int]()
    stream.on_consumed = lambda: consumed.append(stream.consumed_samples)
    stream.put(PCM)
    stream.put(PCM[:20])
    stream.end()
    assert [await stream.read() for _ in range(4)] == [PCM, PCM[:20], None, None]
    assert consumed == [480, 490]


@pytest.mark.parametrize("event", ["audio", "end", "restart"])
async def test_waiting_reader_is_woken(event: str) -> None:
    stream = JobStream()
    reading = asyncio.create_task(stream.read())
    await asyncio.sleep(0)
    assert not reading.done()
    if event == "restart":
        stream.restart()
        with pytest.raises(Restarted):
            await reading
    elif event == "audio":
        stream.put(PCM)
        assert await reading == PCM
    else:
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


async def test_restart_discards_all_audio_and_is_raised_once() -> None:
    stream, consumed = JobStream(), list[int]()
    stream.on_consumed = lambda: consumed.append(stream.consumed_samples)
    stream.put(PCM)
    stream.put(PCM)
    await stream.read()
    stream.restart()
    stream.put(PCM[:20])
    stream.end()
    with pytest.raises(Restarted):
        await stream.read()
    assert [await stream.read(), await stream.read()] == [PCM[:20], None]
    assert consumed == [480, 10]


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


async def test_a_reader_stalls_that_reads_neither_all_nor_the_least() -> None:
    stream, least = JobStream(), len(PCM) // BYTES_PER_SAMPLE * 2
    assert stream.stalled_s(500.0, least) == 0
    for _ in range(4):
        stream.put(PCM)
    assert stream.stalled_s(503.0, least) == 3
    await stream.read()
    assert stream.stalled_s(504.0, least) == 4
    await stream.read()
    assert stream.stalled_s(506.0, least) == 0
    await stream.read()
    assert stream.stalled_s(508.0, least) == 2
    await stream.read()
    assert stream.stalled_s(900.0, least) == 0
    stream.end()
    assert stream.stalled_s(901.0, least) == 1
    await stream.read()
    assert stream.stalled_s(950.0, least) == 0


async def test_callbacks_are_called_once() -> None:
    failed, complete, left = JobStream(), JobStream(), JobStream()
    failures, closures = list[ServiceError | None](), list[ServiceError | None]()
    for stream in (failed, complete, left):
        stream.on_failed = lambda stream=stream: failures.append(stream.error)
        stream.on_close = closures.append
    error = EngineFailed("it failed")
    failed.put(PCM)
    failed.end(error)
    failed.end(WorkerLost("too late"))
    complete.put(PCM)
    complete.end()
    assert failures == [error]
    for stream in (complete, left):
        stream.close(error)
        stream.close()
    left.end(error)
    assert failures == [error]
    assert closures == [error, error]
    assert await complete.read() is None  # the audio is dropped
