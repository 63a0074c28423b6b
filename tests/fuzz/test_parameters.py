"""JSON and query parameters have the same outcome, which follows from the bounds."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from starlette.datastructures import QueryParams

from app.audio.formats import ENCODERS
from app.core.errors import InvalidRequest, NotAcceptable
from app.core.params import SynthesisParams
from app.protocols.native.negotiation import negotiate
from app.protocols.native.schemas import GenerateRequest, from_json, from_query
from tests.ipc.test_messages import PARAMS
from tests.speech.test_options import ALIASES, BOUNDS, WHOLE_NUMBERS
from tests.support.service import Service

ROUTE = "/tts/generate"
FEWER = settings(max_examples=settings().max_examples // 4)

WORDS = [
    *("text", "voice_id", "format", "language"),
    *("chunk_overlap_method", "chunk_overlap_strategy"),
]
CHOICES = ["wav", "MP3", "full", "zero", "ogg", "null", ""]

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
numbers = st.integers() | st.integers(-1, 600) | st.floats(-1, 6) | st.floats()
anything = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
requests = st.fixed_dictionaries(
    {"text": texts},
    optional={name: texts | st.sampled_from(CHOICES) for name in WORDS if name != "text"}
    | dict.fromkeys([*BOUNDS, *ALIASES, "stream", "speed"], anything),
)


def outcome(parse: Any, values: Any) -> GenerateRequest | str | None:
    """Return the parsed request or, if it is refused, the parameter named in the error."""
    try:
        return parse(values)
    except InvalidRequest as refusal:
        return refusal.param


def as_query(values: dict[str, Any]) -> QueryParams:
    return QueryParams(
        {
            name: value if name in WORDS else json.dumps(value, ensure_ascii=True)
            for name, value in values.items()
        }
    )


@given(requests)
@example({"text": "x", "min_p": float("nan")})
def test_json_and_query_agree(values: dict[str, Any]) -> None:
    assert outcome(from_json, values) == outcome(from_query, as_query(values))


@given(st.sampled_from(list(BOUNDS)), numbers)
def test_a_value_is_accepted_if_and_only_if_within_its_bounds(name: str, value: float) -> None:
    least, most = BOUNDS[name]
    within = 0 < value <= most if name == "top_p" else least <= value <= most
    if isinstance(value, float) and name in WHOLE_NUMBERS:
        within = False
    wanted = outcome(from_json, {"text": "x", name: value})
    if within:
        assert isinstance(wanted, GenerateRequest)
        assert getattr(wanted.params(PARAMS), name) == value
    else:
        assert wanted == name


@given(st.dictionaries(st.sampled_from([*BOUNDS, *ALIASES, *WORDS]) | st.text(), anything))
def test_a_refusal_names_the_parameter(values: dict[str, Any]) -> None:
    wanted = outcome(from_json, values)
    assert isinstance(wanted, GenerateRequest) or wanted == "text" or wanted in values


@given(requests)
def test_accepted_parameters_survive_the_message_to_a_worker(values: dict[str, Any]) -> None:
    wanted = outcome(from_json, values)
    if isinstance(wanted, GenerateRequest):
        params = wanted.params(PARAMS)
        frame = msgspec.msgpack.encode(params)
        assert msgspec.msgpack.decode(frame, type=SynthesisParams) == params


@given(st.text())
@example("audio/wav;q=nan")
@example("*/*;q=inf,audio/mpeg;q=-inf")
def test_every_accept_header_is_negotiated_or_refused(accept: str) -> None:
    try:
        assert negotiate(accept) in ENCODERS
    except NotAcceptable:
        assert accept.strip(" ,;")


# --- over HTTP ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[httpx.Client]:
    with service.client() as client:
        yield client


def status_of(answer: httpx.Response) -> int:
    """Return the status after checking that the response is audio or a client error."""
    if answer.status_code == 200:
        assert answer.headers["Content-Type"].startswith("audio/")
    else:
        assert answer.status_code in (400, 404, 413)
        assert set(answer.json()["error"]) == {"message", "type", "code", "param"}
    return answer.status_code


@pytest.mark.fault(20)
@FEWER
@given(requests, st.data())
def test_garbled_body_causes_no_server_error(
    client: httpx.Client, values: dict[str, Any], data: st.DataObject
) -> None:
    body = json.dumps(values).encode()
    start, stop = sorted(data.draw(st.tuples(*[st.integers(0, len(body))] * 2)))
    garbled = body[:start] + data.draw(st.binary(max_size=10)) + body[stop:]
    status_of(client.post(ROUTE, content=garbled, headers={"Content-Type": "application/json"}))


@FEWER
@given(st.binary(max_size=60))
def test_garbled_query_causes_no_server_error(client: httpx.Client, query: bytes) -> None:
    escaped = "".join(f"%{byte:02x}" if byte > 126 or byte < 33 else chr(byte) for byte in query)
    status_of(client.get(f"{ROUTE}?text=x&{escaped}"))
