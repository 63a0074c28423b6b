"""`/metrics`: format, access, content, and agreement with a known load."""

import asyncio
import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tests.e2e.test_devices import GPU_METRICS
from tests.support.http_client import speech_params
from tests.support.manual import PAGES
from tests.support.service import API_KEY, ROOT, Service, running_service

ROUTE = "/tts/generate"
SPEECH = {"route": ROUTE, "method": "POST"}
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
DASHBOARD = ROOT / ".github" / "grafana-dashboard.json"
UNITS = ("seconds", "bytes", "ratio")

Labels = frozenset[tuple[str, str]]
Series = dict[tuple[str, Labels], float]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One worker with one slot and a queue of one; its metrics need no key."""
    with running_service(
        tmp_path_factory.mktemp("metrics"),
        MAX_QUEUED_REQUESTS=1,
        PUBLIC_METRICS="true",
        MAX_AHEAD_SECONDS=1,
    ) as service:
        yield service


def scraped(service: Service, accept: str = "") -> str:
    """Return the metrics without sending a key."""
    with service.client(headers={"Accept": accept}) as client:
        return client.get("/metrics").raise_for_status().text


def series(service: Service) -> Series:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parse_text(scraped(service))
        for sample in family.samples
    }


def risen(before: Series, after: Series) -> Callable[..., float]:
    """`(name, label=…)` returns the increase of that metric."""

    def by(name: str, **labels: str) -> float:
        key = (name, frozenset(labels.items()))
        return after.get(key, 0) - before.get(key, 0)

    return by


def value(service: Service, name: str, **labels: str) -> float | None:
    return series(service).get((name, frozenset(labels.items())))


# --- its form -------------------------------------------------------------------------------------


def families(service: Service, form: str) -> list[Metric]:
    if form == "text":
        return list(parse_text(scraped(service)))
    return list(parse_openmetrics(scraped(service, OPENMETRICS)))


@pytest.mark.parametrize("form", ["text", "openmetrics"])
def test_metrics_parse_and_follow_naming_rules(service: Service, form: str) -> None:
    found = families(service, form)
    names = [family.name for family in found]
    assert len(names) == len(set(names)) > 30
    seen: set[tuple[str, Labels]] = set()
    for family in found:
        assert family.documentation.endswith(".")
        ours = family.name.startswith("tts_")
        assert ours or family.name.startswith("process_")
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", family.name)
        assert not re.search(r"milli|minute|percent|_ms|_(gauge|counter|histogram)", family.name)
        for unit in UNITS:  # at the end, but for what is added to it
            assert unit not in family.name.split("_")[:-1] or not ours
        assert family.type in ("counter", "gauge", "histogram", "info")
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in seen
            seen.add(key)
            if family.type == "counter":
                assert sample.name == f"{family.name}_total"
            assert family.type != "gauge" or not sample.name.endswith("_total")
            assert not sample.name.endswith("_created")


def test_content_type_follows_accept(service: Service) -> None:
    with service.client(headers={}) as client:
        for accept, media_type in (
            ("", "text/plain; version=0.0.4"),
            ("*/*", "text/plain; version=0.0.4"),
            (OPENMETRICS, OPENMETRICS),
        ):
            answer = client.get("/metrics", headers={"Accept": accept})
            assert answer.headers["Content-Type"].startswith(media_type)
            assert answer.text.endswith("# EOF\n") == (accept == OPENMETRICS)


@pytest.mark.parametrize(
    "accept", ["text/plain;version=1.x", "application/openmetrics-text;version=", "a,;;=;,", "\xff"]
)
def test_any_accept_header_gets_metrics(service: Service, accept: str) -> None:
    with service.client(headers={}) as client:
        answer = client.get("/metrics", headers={"Accept": accept.encode("latin-1")})
    assert answer.status_code == 200
    assert "tts_ready 1.0" in answer.text


# --- access ---------------------------------------------------------------------------------------


def test_metrics_need_the_key_unless_public(preview: Service, service: Service) -> None:
    with preview.client(headers={}) as stranger:
        assert stranger.get("/metrics").status_code == 401
        for given in (
            {"headers": {"X-API-Key": API_KEY}},
            {"headers": {"Authorization": f"Bearer {API_KEY}"}},
            {"params": {"api_key": API_KEY}},
        ):
            assert stranger.get("/metrics", **given).status_code == 200
    with service.client(headers={}) as stranger:
        assert stranger.get("/metrics").status_code == 200
        assert stranger.get("/metrics/").status_code == 401
        assert stranger.get("/system-status").status_code == 401


def test_schema_says_whether_metrics_need_the_key(preview: Service, service: Service) -> None:
    for each, needs_key in ((preview, True), (service, False)):
        with each.client() as client:
            paths = client.get("/openapi.json").json()["paths"]
        assert ("security" in paths["/metrics"]["get"]) == needs_key


def test_metrics_contain_no_client_data(service: Service) -> None:
    secret = "Xyzzy"
    with service.client() as client:
        headers = {"X-Request-ID": secret, "User-Agent": secret, "Referer": secret}
        client.post(ROUTE, json=speech_params(f"audio1 {secret}"), headers=headers)
        client.post(ROUTE, json=speech_params("audio1", voice_id=f"{secret}.wav"))
        client.get(f"/{secret}", params={secret: secret})
        client.delete(f"/voices/{secret}.wav")
        client.request(secret.upper(), "/voices")
    for accept in ("", OPENMETRICS):
        told = scraped(service, accept).lower()
        for hidden in (secret.lower(), API_KEY, "127.0.0.1", "raise", str(ROOT).lower()):
            assert hidden not in told


def test_unknown_paths_and_methods_add_no_series(service: Service) -> None:
    with service.client() as client:
        client.get("/nothing")
        client.request("PROPFIND", "/voices")
        before = scraped(service)
        for number in range(1000):
            client.get(f"/nothing/{number}")
        for method in ("SEARCH", "MKCOL", "PATCH"):
            client.request(method, "/voices")
            client.request(method, "/nothing")
        client.request("PATCH", "/nothing")
    after = scraped(service)
    assert len(after.splitlines()) - len(before.splitlines()) <= 20  # of a method at no path
    counted = 'tts_http_requests_total{method="GET",route="other",status="404"}'
    rise = [float(re.search(rf"{re.escape(counted)} (\S+)", text)[1]) for text in (before, after)]  # type: ignore[index]
    assert rise[1] - rise[0] == 1000


def test_route_label_is_the_path_template(service: Service) -> None:
    with service.client() as client:
        paths = client.get("/openapi.json").json()["paths"]
        before = series(service)
        for path in paths:
            client.patch(path.replace("{", "").replace("}", ""))
    rise = risen(before, series(service))
    assert {"/v1/audio/speech", "/v1/models/{model}", "/voices/{voice_id}"} <= paths.keys()
    for path in paths:
        labels = {"route": path, "method": "other", "status": "405"}
        assert rise("tts_http_requests_total", **labels) == 1, path


# --- that it is true ------------------------------------------------------------------------------


async def test_counters_match_a_known_load(service: Service) -> None:
    service.wait_until(lambda: service.busy() == 0)
    before = series(service)
    async with service.async_client() as client:
        for _ in range(5):
            assert (
                await client.post(ROUTE, json=speech_params("audio25 audio25"))
            ).status_code == 200
        assert (
            await client.post(ROUTE, json=speech_params("audio25", format="mp3"))
        ).status_code == 200
        for text, status in (("raise audio1", 500), ("oom audio1", 503), ("?", 400)):
            assert (await client.post(ROUTE, json=speech_params(text))).status_code == status
        assert (
            await client.post(ROUTE, json=speech_params("a", voice_id="no.wav"))
        ).status_code == 404
        assert (await client.get("/nothing")).status_code == 404
        assert (await client.delete("/voices/no.wav")).status_code == 404
        for _ in range(3):
            assert (await client.get(ROUTE, headers={"X-API-Key": "no"})).status_code == 401
        await leave(service, client)
    after = series(service)
    rise = risen(before, after)
    for status, count in ((200, 7), (500, 1), (503, 1), (400, 1), (404, 1), (429, 1), (499, 1)):
        assert rise("tts_http_requests_total", **SPEECH, status=str(status)) == count
    of_voices = {"route": "/voices/{voice_id}", "method": "DELETE"}
    assert rise("tts_http_requests_total", **of_voices, status="404") == 1
    for status, count in ((401, 3), (404, 1)):
        by = {"route": "other", "method": "GET", "status": str(status)}
        assert rise("tts_http_requests_total", **by) == count
    assert rise("tts_http_request_duration_seconds_count", **SPEECH) == 13
    assert rise("tts_http_requests_aborted_total", route=ROUTE) == 2
    for outcome, count in (
        ("done", 6),
        ("cancelled", 2),
        ("engine_error", 1),
        ("out_of_memory", 1),
    ):
        assert rise("tts_jobs_total", outcome=outcome) == count
    assert rise("tts_characters_total") == 5 * len("audio25 audio25") + len("audio25")
    assert rise("tts_audio_seconds_total") == pytest.approx(5 * 2 + 1 + 1, abs=0.5)
    assert rise("tts_job_wait_seconds_count") == 10
    assert rise("tts_job_first_audio_seconds_count") == 7
    assert rise("tts_job_realtime_factor_count") == 6
    assert rise("tts_job_realtime_factor_sum") < 6
    assert 0 < rise("tts_encoder_cpu_seconds_total", media_type="audio/mpeg") < 5


async def leave(service: Service, client: httpx.AsyncClient) -> None:
    """Leave during a stream and in the queue, and be refused once by the full queue."""
    async with client.stream("POST", ROUTE, json=speech_params("audio25 sleep60")) as answer:
        audio = answer.aiter_raw()
        assert await anext(audio)
        waiting = asyncio.create_task(client.post(ROUTE, json=speech_params("audio1")))
        await service.until(lambda: value(service, "tts_queue_waiting_jobs") == 1)
        assert value(service, "tts_running_jobs") == 1
        assert value(service, "tts_worker_busy_slots", worker="cpu.0") == 1
        assert value(service, "tts_queue_limit_jobs") == 1
        assert (await client.post(ROUTE, json=speech_params("audio1"))).status_code == 429
        waiting.cancel()
        with suppress(asyncio.CancelledError):
            await waiting
        await service.until(lambda: value(service, "tts_queue_waiting_jobs") == 0)
    await service.until(lambda: value(service, "tts_running_jobs") == 0)


async def test_engine_failure_is_not_counted_as_client_abort(service: Service) -> None:
    before = series(service)
    async with service.async_client() as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.post(ROUTE, json=speech_params("audio25 sleep0.3 raise"))
    rise = risen(before, series(service))
    assert rise("tts_http_requests_total", **SPEECH, status="200") == 1
    assert rise("tts_jobs_total", outcome="engine_error") == 1
    assert rise("tts_http_requests_aborted_total", route=ROUTE) == 0


@pytest.mark.timed
async def test_underrun_is_counted_and_slow_reader_is_not(service: Service) -> None:
    before = series(service)
    async with service.async_client() as client:
        asked = speech_params("audio5 sleep0.7 audio5")
        assert (await client.post(ROUTE, json=asked)).status_code == 200
        rise = risen(before, series(service))
        assert rise("tts_underruns_total") == 1
        assert 0.3 < rise("tts_underrun_seconds_total") < 0.8
        asked = speech_params("audio50 " * 20)
        async with client.stream("POST", ROUTE, json=asked) as answer:
            await asyncio.sleep(1.5)  # of 1 s of audio that it may be ahead
            async for _ in answer.aiter_raw():
                pass
    assert risen(before, series(service))("tts_underruns_total") == 1


async def test_restarts_and_retries_are_counted_during_scrapes(
    service: Service,
) -> None:
    before = series(service)
    [pid] = service.worker_pids()
    async with service.async_client() as client:
        speaking = asyncio.create_task(client.post(ROUTE, json=speech_params("sleep0.5 audio25")))
        await service.until(lambda: value(service, "tts_running_jobs") == 1)
        os.kill(pid, signal.SIGKILL)
        states = set()
        while not speaking.done():
            now = await asyncio.to_thread(series, service)
            states |= {state for state in STATES if now[of_worker("state", state=state)]}
            assert sum(now[of_worker("state", state=state)] for state in STATES) == 1
        assert (await speaking).status_code == 200
    assert states == {"ready", "restarting"}
    after = series(service)
    assert after.keys() >= before.keys()
    rise = risen(before, after)
    assert rise("tts_worker_restarts_total", worker="cpu.0") == 1
    assert rise("tts_job_retries_total") == 1
    assert rise("tts_jobs_total", outcome="done") == 1
    assert rise("tts_job_wait_seconds_count") == 1


STATES = ("starting", "ready", "restarting", "failed", "stopped")


def of_worker(name: str, **labels: str) -> tuple[str, Labels]:
    return f"tts_worker_{name}", frozenset((labels | {"worker": "cpu.0"}).items())


def test_metrics_before_service_is_ready(tmp_path: Path) -> None:
    service = Service(
        tmp_path, {"MODEL": "tests.support.engines:LoadingEngine", "PUBLIC_METRICS": "1"}
    )
    try:
        service.wait_until(lambda: said(service, "tts_ready") == 0, 20)
        now = series(service)
        assert now[of_worker("state", state="starting")] == 1
        (service.folder / "go").touch()
        service.wait_until(lambda: said(service, "tts_ready") == 1, 20)
    finally:
        service.stop()


def said(service: Service, name: str) -> float | None:
    try:
        return value(service, name)
    except httpx.TransportError:
        return None


def test_metrics_show_build_voices_and_process_resources(preview: Service) -> None:
    with preview.client() as client:
        found = {family.name: family for family in parse_text(client.get("/metrics").text)}
        voices = len(client.get("/voices").json())
        version = client.get("/health").json()["version"]
    [build] = found["tts_build_info"].samples
    assert build.labels == {"version": version, "model": "preview"}
    assert found["tts_voices"].samples[0].value == voices > 0
    for name in ("tts_worker_cpu_seconds", "tts_worker_resident_memory_bytes"):
        figures = {sample.labels["worker"]: sample.value for sample in found[name].samples}
        assert figures.keys() == {"cpu.0", "cpu.1"}
        assert min(figures.values()) > 0
    assert found["process_resident_memory_bytes"].samples[0].value > 20e6
    assert not [name for name in found if name.startswith("tts_gpu")]


def test_polled_routes_are_not_logged(preview: Service) -> None:
    with preview.client() as client:
        client.get("/metrics", headers={"X-Request-ID": "asks-for-metrics"}).raise_for_status()
        client.get("/system-status", headers={"X-Request-ID": "polls"}).raise_for_status()
        client.get("/system-status", headers={"X-Request-ID": "no-key", "X-API-Key": ""})
        client.get("/voices", headers={"X-Request-ID": "asks-for-voices"}).raise_for_status()
    preview.wait_until(lambda: "asks-for-voices" in preview.log())
    assert "asks-for-metrics" not in preview.log()
    assert "polls GET" not in preview.log()
    assert "no-key GET /system-status 401" in preview.log()


# --- what shows it --------------------------------------------------------------------------------


def test_dashboard_queries_existing_metrics(service: Service) -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    told = {sample.name for family in parse_text(scraped(service)) for sample in family.samples}
    queries = [
        target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])
    ]
    assert len(queries) > 20
    for query in queries:
        names = re.findall(r"\b(?:tts|process)_\w+", query)
        assert names
        for name in names:
            assert name in told or name in GPU_METRICS


def test_dashboard_panels_use_the_datasource_variable() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    variables = {each["name"]: each["type"] for each in dashboard["templating"]["list"]}
    assert variables["datasource"] == "datasource"
    places = set()
    for panel in dashboard["panels"]:
        if panel["type"] != "row":
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert panel["title"]
            assert panel["targets"]
        where = panel["gridPos"]
        cells = {
            (where["x"] + right, where["y"] + down)
            for right in range(where["w"])
            for down in range(where["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & places
        places |= cells
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_readme_has_a_row_for_every_metric(service: Service) -> None:
    """Each row lists the metric's labels, except those that a histogram adds."""
    rows = set(re.findall(r"`(tts_[a-z_]+)`", PAGES["metrics.md"]))
    told = set()
    for family in parse_text(scraped(service)):
        counted = family.type == "counter"
        if family.name.startswith("tts_"):
            told.add(f"{family.name}_total" if counted else family.name)
    assert rows == told | GPU_METRICS.keys()
