"""The API key on every HTTP route. `tests/http/test_auth.py` checks WebSockets."""

import httpx
import pytest

from tests.support.api import refusal
from tests.support.contract import ContractService, contract_service
from tests.support.service import API_KEY

OPEN = ("/health", "/ready", "/ping")

WRONG = API_KEY[:-1] + "x"

NO_KEY = [
    {},
    {"headers": {"X-API-Key": ""}},
    {"headers": {"X-API-Key": WRONG}},
    {"headers": {"X-API-Key": f"{API_KEY}{API_KEY}"}},
    {"headers": {"X-API-Key": "ü".encode("latin-1")}},
    {"headers": {"Authorization": f"Bearer {WRONG}"}},
    {"headers": {"Authorization": f"Basic {API_KEY}"}},
    {"headers": {"Authorization": API_KEY}},
    {"params": {"api_key": WRONG}},
    {"params": {"api_key": ""}},
    {"params": {"API_KEY": API_KEY}},
    {"params": {f"a{number}": "1" for number in range(1000)}},
]

THE_KEY = [
    {"headers": {"X-API-Key": API_KEY}},
    {"headers": {"Authorization": f"Bearer {API_KEY}"}},
    {"headers": {"Authorization": f"bearer {API_KEY}"}},
    {"params": {"api_key": API_KEY}},
    {"headers": {"X-API-Key": WRONG}, "params": {"api_key": API_KEY}},
]


def protected_routes(service: ContractService) -> list[tuple[str, str]]:
    """Return method and path of all documented routes and of some that do not exist."""
    with service.client() as client:
        paths = client.get("/openapi.json").raise_for_status().json()["paths"]
    routes = [
        (method.upper(), path.replace("{voice_id}", "x.wav"))
        for path, methods in paths.items()
        for method in methods
    ]
    assert len(routes) > 7
    unlisted = ["/openapi.json", "/nope", "/health/", "/voices/", "/HEALTH"]
    routes += [("GET", path) for path in unlisted]
    routes += [("HEAD", "/tts/generate"), ("PUT", "/voices"), ("OPTIONS", "/voices")]
    return [(method, path) for method, path in routes if path not in OPEN]


@pytest.mark.fault(44)
@pytest.mark.covers("default-deny routing")
def test_every_route_refuses_missing_or_wrong_key_with_the_same_message(
    service: ContractService, stranger: httpx.Client
) -> None:
    for given in NO_KEY:
        bodies = set()
        for method, path in protected_routes(service):
            answer = stranger.request(method, path, **given)
            assert answer.status_code == 401, (method, path, given)
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            if method != "HEAD":
                bodies.add(answer.text)
        assert len(bodies) == 1
        body = bodies.pop()
        assert '"type":"authentication_error"' in body
        for place in ("X-API-Key: ", "Authorization: Bearer ", "?api_key="):
            assert place in body


@pytest.mark.parametrize("given", THE_KEY)
def test_key_is_accepted_in_header_bearer_and_query(
    stranger: httpx.Client, given: dict[str, dict[str, str]]
) -> None:
    assert stranger.get("/voices", **given).status_code == 200


def test_schema_lists_security_schemes_of_each_route(stranger: httpx.Client) -> None:
    schema = stranger.get("/openapi.json", params={"api_key": API_KEY}).raise_for_status().json()
    schemes = schema["components"]["securitySchemes"]
    any_of_them = [{name: []} for name in schemes]
    for path, operations in schema["paths"].items():
        assert "head" not in operations
        for operation in operations.values():
            assert operation.get("security", []) == ([] if path in OPEN else any_of_them)
    places = {
        ("apiKey", "header", "X-API-Key"),
        ("http", "bearer", None),
        ("apiKey", "query", "api_key"),
    }
    assert places == {
        (scheme["type"], scheme.get("in") or scheme.get("scheme"), scheme.get("name"))
        for scheme in schemes.values()
    }


@pytest.mark.covers("default-deny routing")
def test_open_paths_need_no_key(stranger: httpx.Client) -> None:
    assert [stranger.get(path).status_code for path in OPEN] == [200] * len(OPEN)
    assert stranger.get("/").status_code == 200


UNKNOWN_HEADERS: list[dict[str, str]] = [
    {"Access-Control-Request-Private-Network": "true"},
    {"Access-Control-Request-Local-Network": "true"},
    {"Access-Control-Request-Headers": "x-made-up, traceparent, x-stainless-os"},
    {"Access-Control-Request-Headers": "", "Sec-Fetch-Mode": "cors", "Priority": "u=1, i"},
    {"Access-Control-Request-Headers": "*", "X-Forwarded-Proto": "https"},
]


@pytest.mark.parametrize("headers", UNKNOWN_HEADERS)
@pytest.mark.parametrize("origin", ["https://example.com", "null", "chrome-extension://abc"])
def test_preflight_with_any_header_is_allowed(
    stranger: httpx.Client, headers: dict[str, str], origin: str
) -> None:
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST"} | headers
    answer = stranger.options("/v1/audio/speech", headers=asked)
    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert answer.headers["Access-Control-Allow-Private-Network"] == "true"
    allowed = answer.headers.get("Access-Control-Allow-Headers", "")
    assert allowed == headers.get("Access-Control-Request-Headers", "")


@pytest.mark.parametrize("headers", UNKNOWN_HEADERS)
def test_preflight_of_another_origin_is_refused_in_the_one_shape(
    tmp_path_factory: pytest.TempPathFactory, headers: dict[str, str]
) -> None:
    folder = tmp_path_factory.mktemp("restricted")
    with (
        contract_service(folder, cors_origins="https://mine.example") as service,
        service.client(headers={}) as stranger,
    ):
        asked = {"Access-Control-Request-Method": "DELETE"} | headers
        mine = stranger.options("/voices", headers={"Origin": "https://mine.example"} | asked)
        assert mine.status_code == 200
        other = stranger.options("/voices", headers={"Origin": "https://other.example"} | asked)
        error = refusal(other)
        assert error["message"] == (
            "The origin https://other.example is not allowed; add it to CORS_ORIGINS."
        )
        assert error["code"] == "invalid_request"
        assert "Access-Control-Allow-Origin" not in other.headers


@pytest.mark.parametrize("method", ["PUT", "TRACE", "x" * 1000])
def test_preflight_of_an_unknown_method_is_refused_in_the_one_shape(
    stranger: httpx.Client, method: str
) -> None:
    asked = {"Origin": "https://example.com", "Access-Control-Request-Method": method}
    error = refusal(stranger.options("/voices", headers=asked))
    assert f"The method {method[:128]}" in error["message"]
    assert error["message"].endswith("; allowed are GET, HEAD, POST, PATCH, DELETE.")


@pytest.mark.fault(56)
def test_preflight_needs_no_key(stranger: httpx.Client) -> None:
    asked = {
        "Origin": "https://example.com",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "x-api-key,content-type",
    }
    answer = stranger.options("/tts/generate", headers=asked)
    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert "Access-Control-Allow-Credentials" not in answer.headers
