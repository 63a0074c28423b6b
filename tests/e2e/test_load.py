"""More clients than slots, and clients that leave: each has exactly one outcome."""

import asyncio
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from time import monotonic

import psutil
import pytest

from tests.support.engines import expected_pcm
from tests.support.fault_injection import LAGS
from tests.support.http_client import (
    check_speaks,
    connections,
    fetch,
    get,
    read_response,
    speech,
    speech_in_json,
    upload,
)
from tests.support.media import audio_file, tone
from tests.support.service import Service, running_service

pytestmark = pytest.mark.timed

CROWD = 100
GONE_WITHIN_S = 1
PAUSE_S = 0.03
MB = 1_048_576
A_FILE = bytes(300_000)


@pytest.fixture(scope="module")
def crowded_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One worker with a hundred slots, and a queue of a hundred."""
    with running_service(
        tmp_path_factory.mktemp("crowd"),
        CONCURRENT_REQUESTS_PER_WORKER=CROWD,
        LOG_LEVEL="DEBUG",
    ) as service:
        yield service


def load(service: Service) -> tuple[int, int]:
    """Return the numbers of running and waiting jobs."""
    queue = service.status()["queue"]
    return queue["running"], queue["waiting"]


async def until_load(service: Service, running: int, waiting: int, within_s: float = 20) -> None:
    await service.until(lambda: load(service) == (running, waiting), within_s)


def outcomes(service: Service, crowd: str) -> dict[str, list[str]]:
    """Return all logged outcomes of each job of a crowd."""
    found = defaultdict(list)
    ends = re.findall(rf"master: job ({crowd}-\d+)#\d+ (done|failed|cancelled)", service.log())
    for name, outcome in ends:
        found[name].append(outcome)
    return found


def started(service: Service, crowd: str) -> list[str]:
    return re.findall(rf"job ({crowd}-\d+)#\d+ sent to worker", service.log())


def names(crowd: str, count: int = CROWD) -> list[str]:
    return [f"{crowd}-{number}" for number in range(count)]


# --- clients that leave ---------------------------------------------------------------------------


@pytest.mark.fault(13)
async def test_hundred_clients_leaving_while_sending_leave_nothing(
    crowded_service: Service,
) -> None:
    files = [upload(A_FILE, "v.wav", name) for name in names("file")]
    texts = [speech_in_json("a", name) for name in names("json")]
    async with connections(crowded_service, [request[:-5] for request in files + texts]):
        assert load(crowded_service) == (0, 0)
    for crowd in ("file", "json"):
        ends = re.compile(rf"{crowd}-\d+ POST /")
        await crowded_service.until(
            lambda ends=ends: len(ends.findall(crowded_service.log())) == CROWD, GONE_WITHIN_S
        )
        assert not started(crowded_service, crowd)
    assert not list(crowded_service.voices_dir.iterdir())
    await check_speaks(crowded_service)


@pytest.mark.fault(13)
async def test_hundred_clients_leaving_before_the_first_byte_or_the_queue_are_cancelled(
    crowded_service: Service,
) -> None:
    running = [speech("sleep60 audio1", name) for name in names("silent")]
    queued = [speech("audio1", name) for name in names("queued")]
    async with connections(crowded_service, running):
        await until_load(crowded_service, CROWD, 0)
        async with connections(crowded_service, queued):
            await until_load(crowded_service, CROWD, CROWD)
        await until_load(crowded_service, CROWD, 0, GONE_WITHIN_S)
    await until_load(crowded_service, 0, 0, GONE_WITHIN_S)
    await check_speaks(crowded_service)
    assert not started(crowded_service, "queued")
    for crowd in ("queued", "silent"):
        assert outcomes(crowded_service, crowd) == {name: ["cancelled"] for name in names(crowd)}


@pytest.mark.fault(13)
async def test_hundred_clients_leaving_during_stream_are_cancelled(
    crowded_service: Service,
) -> None:
    requests = [speech("audio3 sleep60 audio1", name) for name in names("amid")]
    async with connections(crowded_service, requests) as readers:
        heads = await asyncio.gather(*(reader.readuntil(b"\r\n\r\n") for reader in readers))
        assert all(head.startswith(b"HTTP/1.1 200 ") for head in heads)
        assert all(await asyncio.gather(*(reader.read(1) for reader in readers)))
        assert load(crowded_service) == (CROWD, 0)
    await until_load(crowded_service, 0, 0, GONE_WITHIN_S)
    assert outcomes(crowded_service, "amid") == {name: ["cancelled"] for name in names("amid")}
    await check_speaks(crowded_service)


@pytest.mark.fault(14)
@pytest.mark.heavy
async def test_five_hundred_clients_leaving_at_random_have_one_outcome_each(
    crowded_service: Service,
) -> None:
    """Master and worker agree on one outcome for each job."""
    text = "audio5 sleep0.02 audio5 sleep0.02 audio5"
    whole, moments, at_once = expected_pcm(text, 7), random.Random(7), asyncio.Semaphore(25)
    processes = [
        psutil.Process(pid) for pid in (crowded_service.process.pid, *crowded_service.worker_pids())
    ]

    async def visit(name: str) -> None:
        async with at_once, connections(crowded_service, [speech(text, name)]) as [reader]:
            waited = asyncio.ensure_future(read_response(reader))
            [*_], late = await asyncio.wait([waited], timeout=moments.uniform(0, 0.08))
            if not late:
                assert waited.result().body == whole
            waited.cancel()

    async def rush(crowd: str, count: int) -> list[int]:
        await asyncio.gather(*map(visit, names(crowd, count)))
        await until_load(crowded_service, 0, 0, GONE_WITHIN_S)
        await check_speaks(crowded_service)
        await crowded_service.until(lambda: not crowded_service.connections())
        return [process.num_fds() for process in processes]

    before = await rush("warming", 50)
    after = await rush("racing", 750)
    assert all(abs(now - then) <= 2 for now, then in zip(after, before, strict=True))
    ends = outcomes(crowded_service, "racing")
    assert len(ends) >= 500  # the other requests never reached the application
    assert set(map(len, ends.values())) == {1}
    kinds = Counter(end for [end] in ends.values())
    assert kinds.keys() == {"done", "cancelled"}
    print(kinds)
    assert min(kinds.values()) > 20
    assert set(started(crowded_service, "racing")) <= ends.keys()
    in_worker = Counter(
        re.findall(r"job (racing-\d+)#\d+ (?:done|cancelled) after", crowded_service.log())
    )
    assert in_worker == Counter(started(crowded_service, "racing"))


# --- more requests than slots ---------------------------------------------------------------------


@pytest.mark.fault(15)
@pytest.mark.heavy
async def test_thousand_requests_at_once_are_served_in_order_or_refused(
    start: Callable[..., Service],
) -> None:
    service, room = start(LOG_LEVEL="DEBUG"), 100
    master = psutil.Process(service.process.pid)
    await check_speaks(service)
    before = master.memory_info().rss
    async with connections(service, [speech("sleep60")]):
        await until_load(service, 1, 0)
        began = monotonic()
        asking = [
            asyncio.create_task(fetch(service, speech("audio2", name)))
            for name in names("rush", 1000)
        ]
        refused = [
            await each
            for _, each in zip(range(1000 - room), asyncio.as_completed(asking), strict=False)
        ]
        refused_s = monotonic() - began
        assert load(service) == (1, room)
        alone_s = [await duration(service, speech("audio2")) for _ in range(5)]
        grown = master.memory_info().rss - before
    served = [each for each in await asyncio.gather(*asking) if each not in refused]
    print(f"{refused_s:.2f} s, alone {max(alone_s) * 1000:.0f} ms, {grown / MB:.1f} MB")
    for answer in refused:
        assert answer.status == 429
        assert int(answer.headers["retry-after"]) > 0
        assert b'"rate_limit_error"' in answer.body
    assert refused_s < 3
    assert max(alone_s) < 0.05
    assert grown < 50 * MB
    assert [each.body for each in served] == [expected_pcm("audio2", 7)] * room

    def numbers() -> list[int]:
        ends = re.findall(r"master: job rush-\d+#(\d+) done", service.log())
        return [int(number) for number in ends]

    await service.until(lambda: len(numbers()) >= room)
    accepted = numbers()
    assert len(accepted) == room
    assert accepted == sorted(accepted)


async def duration(service: Service, request: bytes) -> float:
    began = monotonic()
    await fetch(service, request)
    return monotonic() - began


# --- a busy event loop ----------------------------------------------------------------------------


@pytest.mark.fault(57)
async def test_uploads_and_status_do_not_delay_the_event_loop(
    start: Callable[..., Service],
) -> None:
    service = start(
        entry=("tests.support.fault_injection", "nothing-but-lag"), CONCURRENT_REQUESTS_PER_WORKER=4
    )
    content = audio_file(tone(20, 24_000), rate=24_000)
    streams = [
        speech("audio5 sleep0.02 " * 150, format=name) for name in ("mp3", "raw_pcm", "fmp4")
    ]
    await check_speaks(service)
    done = asyncio.Event()

    async def repeat(request: Callable[[int], bytes], expected: int) -> None:
        number = 0
        while not done.is_set():
            assert (await fetch(service, request(number))).status == expected
            number += 1
            await asyncio.sleep(PAUSE_S)

    began = monotonic()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(repeat(lambda n: upload(content, f"v{n}.wav"), 201))
        tasks.create_task(repeat(lambda _: get("/system-status"), 200))
        listening = [tasks.create_task(fetch(service, request)) for request in streams]
        await asyncio.wait(listening)
        done.set()
    ended = monotonic()
    assert all(each.result().complete for each in listening)
    service.stop()
    moments = (
        map(float, line.split()) for line in (service.folder / LAGS).read_text().splitlines()
    )
    lags = sorted(lag for due, lag in moments if began < due < ended)
    assert len(lags) > 200
    p99 = lags[len(lags) * 99 // 100]
    print(f"p50 {lags[len(lags) // 2] * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms of {len(lags)}")
    assert p99 < 0.02
