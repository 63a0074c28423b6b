"""`/metrics`: format, access, and the documents that name its metrics."""

import json
import re

import httpx
import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tests.e2e.test_devices import GPU_METRICS
from tests.support.api import SPEECH
from tests.support.contract import ContractService
from tests.support.manual import PAGES
from tests.support.service import API_KEY, ROOT

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
DASHBOARD = ROOT / ".github" / "grafana-dashboard.json"
UNITS = ("seconds", "bytes", "ratio")
REQUESTS = "tts_http_requests_total"
SETTINGS = {"public_metrics": True}


def scraped(stranger: httpx.Client, accept: str = "") -> str:
    return stranger.get("/metrics", headers={"Accept": accept}).raise_for_status().text


def families(stranger: httpx.Client) -> list[Metric]:
    return list(parse_text(scraped(stranger)))


def value(stranger: httpx.Client, name: str, **labels: str) -> float:
    """Return the value of one series, 0 if there is none."""
    found = [
        sample.value
        for family in families(stranger)
        for sample in family.samples
        if (sample.name, sample.labels) == (name, labels)
    ]
    return sum(found)


@pytest.mark.parametrize("form", ["text", "openmetrics"])
def test_metrics_parse_and_follow_naming_rules(
    client: httpx.Client, stranger: httpx.Client, form: str
) -> None:
    client.get(SPEECH, params={"text": "audio1", "format": "mp3"}).raise_for_status()
    found = (
        families(stranger)
        if form == "text"
        else list(parse_openmetrics(scraped(stranger, OPENMETRICS)))
    )
    names = [family.name for family in found]
    assert len(names) == len(set(names)) > 30
    seen: set[tuple[str, frozenset[tuple[str, str]]]] = set()
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


def test_content_type_follows_accept(stranger: httpx.Client) -> None:
    text = "text/plain; version=0.0.4"
    for accept, media_type in (("", text), ("*/*", text), (OPENMETRICS, OPENMETRICS)):
        answer = stranger.get("/metrics", headers={"Accept": accept})
        assert answer.headers["Content-Type"].startswith(media_type)
        assert answer.text.endswith("# EOF\n") == (accept == OPENMETRICS)


@pytest.mark.parametrize(
    "accept", ["text/plain;version=1.x", "application/openmetrics-text;version=", "a,;;=;,", "\xff"]
)
def test_any_accept_header_gets_metrics(stranger: httpx.Client, accept: str) -> None:
    answer = stranger.get("/metrics", headers={"Accept": accept.encode("latin-1")})
    assert answer.status_code == 200
    assert "tts_ready 1.0" in answer.text


def test_public_metrics_need_no_key(client: httpx.Client, stranger: httpx.Client) -> None:
    """`test_auth.py` shows that they need it otherwise."""
    assert stranger.get("/metrics").status_code == 200
    for path in ("/metrics/", "/system-status"):
        assert stranger.get(path).status_code == 401
    paths = client.get("/openapi.json").json()["paths"]
    assert "security" not in paths["/metrics"]["get"]


def test_metrics_contain_no_client_data(client: httpx.Client, stranger: httpx.Client) -> None:
    secret = "Xyzzy"
    headers = {"X-Request-ID": secret, "User-Agent": secret, "Referer": secret}
    client.post(SPEECH, json={"text": f"audio1 {secret}"}, headers=headers)
    client.post(SPEECH, json={"text": "a", "voice_id": f"{secret}.wav"})
    client.get(f"/{secret}", params={secret: secret})
    client.delete(f"/voices/{secret}.wav")
    client.request(secret.upper(), "/voices")
    for accept in ("", OPENMETRICS):
        text = scraped(stranger, accept).lower()
        for hidden in (secret.lower(), API_KEY, "127.0.0.1", "raise", str(ROOT).lower()):
            assert hidden not in text


def test_unknown_paths_and_methods_add_no_series(
    client: httpx.Client, stranger: httpx.Client
) -> None:
    counted = {"method": "GET", "route": "other", "status": "404"}
    client.get("/nothing")
    client.request("PROPFIND", "/voices")
    before, requests = scraped(stranger), value(stranger, REQUESTS, **counted)
    for number in range(100):
        client.get(f"/nothing/{number}")
    for method in ("SEARCH", "MKCOL", "PUT"):
        client.request(method, "/voices")
        client.request(method, "/nothing")
    after = scraped(stranger)
    assert len(after.splitlines()) - len(before.splitlines()) <= 20  # of a method at no path
    assert value(stranger, REQUESTS, **counted) == requests + 100


def test_route_label_is_the_path_template(client: httpx.Client, stranger: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/v1/audio/speech", "/v1/models/{model}", "/voices/{voice_id}"} <= paths.keys()
    for path in paths:
        labels = {"route": path, "method": "other", "status": "405"}
        before = value(stranger, REQUESTS, **labels)
        client.put(path.replace("{", "").replace("}", ""))
        assert value(stranger, REQUESTS, **labels) == before + 1, path


def test_metrics_show_whether_the_service_is_ready(
    service: ContractService, stranger: httpx.Client
) -> None:
    states = []
    for service.backend.state in ("starting", "ready"):
        states.append(value(stranger, "tts_ready"))
        worker = {"worker": "cpu.0", "state": service.backend.state}
        assert value(stranger, "tts_worker_state", **worker) == 1
    assert states == [0, 1]


def test_polled_routes_are_not_logged(
    client: httpx.Client, stranger: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    for path in ("/metrics", "/system-status", "/voices"):
        client.get(path).raise_for_status()
    stranger.get("/system-status")
    lines = [each.getMessage() for each in caplog.records if each.name.endswith("access_log")]
    logged = [line.split()[1:4] for line in lines]
    assert logged == [["GET", "/voices", "200"], ["GET", "/system-status", "401"]]


def metric_names(stranger: httpx.Client) -> set[str]:
    return {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in families(stranger)
    }


def test_dashboard_queries_existing_metrics(stranger: httpx.Client) -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    names = metric_names(stranger) | GPU_METRICS.keys()
    queries = [
        target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])
    ]
    assert len(queries) > 20
    for query in queries:
        queried = re.findall(r"\b((?:tts|process)_\w+?)(?:_bucket|_sum|_count)?\b", query)
        assert queried
        assert set(queried) <= names


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


def test_readme_has_a_row_for_every_metric(stranger: httpx.Client) -> None:
    rows = set(re.findall(r"`(tts_[a-z_]+)`", PAGES["metrics.md"]))
    names = {name for name in metric_names(stranger) if name.startswith("tts_")}
    assert rows == names | GPU_METRICS.keys()
