"""Mistakes of newcomers: each is answered with a message that names the cure."""

import json
from typing import Any, NamedTuple

import httpx
import pytest

from tests.support.api import refusal, wav
from tests.support.contract import ContractService
from tests.support.service import API_KEY

NATIVE, OPENAI = "/tts/generate", "/v1/audio/speech"
JSON = {"X-API-Key": API_KEY, "Content-Type": "application/json"}
BODY = b'{"text": "audio1"}'
SETTINGS = {"max_text_length": 100}


class Mistake(NamedTuple):
    """A request, and what its error says. `words`: parts of the message, in order."""

    status: int
    code: str
    words: tuple[str, ...]
    path: str = NATIVE
    method: str = "POST"
    headers: dict[str, str] = JSON
    body: bytes = BODY


def without_key(*words: str, **headers: str) -> Mistake:
    sent = {"Content-Type": "application/json"}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    return Mistake(401, "invalid_api_key", (*words, "X-API-Key: <key>"), headers=sent)


def bad_json(body: str | bytes, *words: str) -> Mistake:
    content = body if isinstance(body, bytes) else body.encode()
    return Mistake(400, "invalid_request", ("is not valid JSON", *words), body=content)


def typed(media_type: str, *words: str, body: bytes = BODY, path: str = NATIVE) -> Mistake:
    headers = {"X-API-Key": API_KEY} | ({"Content-Type": media_type} if media_type else {})
    return Mistake(415, "unsupported_media_type", words, headers=headers, body=body, path=path)


def spoken(**values: Any) -> bytes:
    return json.dumps({"text": "audio1"} | values).encode()


MISTAKES = {
    # no key
    "no key": without_key("is missing", "the API_KEY that", "in the link"),
    "no key after Bearer": without_key("is missing", "no key", Authorization="Bearer "),
    # wrong header, wrong key
    "no Bearer": without_key("is missing", "lacks the word Bearer", Authorization=API_KEY),
    "Basic": without_key("is missing", "another kind than Bearer", Authorization="Basic eDp5"),
    "other header": without_key("is missing", "header api-key is not read", api_key="k"),
    "ElevenLabs' header": without_key("header xi-api-key is not read", xi_api_key="k"),
    "wrong key": without_key("is wrong", "the API_KEY that", "in the link", X_API_Key="k"),
    "quotes": without_key("is wrong", "with quotes", X_API_Key=f'"{API_KEY}"'),
    **{
        f"placeholder {key}": without_key("is wrong", "placeholder", X_API_Key=key)
        for key in ("<YOUR_API_KEY>", "%3CYOUR_API_KEY%3E", "YOUR_API_KEY", "sk-...", "$API_KEY",
                    "your-super-secret-api-key", "{{api_key}}", "%API_KEY%")
    },
    "other parameter": Mistake(
        401, "invalid_api_key", ("parameter key is not read", "?api_key=<key>"),
        f"{NATIVE}?key={API_KEY}", headers={"Content-Type": "application/json"},
    ),
    # form body
    "curl -d": typed(
        "application/x-www-form-urlencoded", "came as application/x-www-form-urlencoded",
        "curl --json '{\"text\"",
    ),
    "no type": typed("", "without a Content-Type", "curl --json"),
    "form for JSON": typed("multipart/form-data; boundary=x", "multipart/form-data", "curl --json"),
    "JSON for a form": typed("application/json", "curl -F file=@voice.wav", path="/voices"),
    "form in JSON": bad_json("text=Hello", "looks like a form", "curl --json"),
    # Windows quoting, other encodings
    "quotes stay": bad_json("'{text:", "single quote", "Windows", "@request"),
    "quotes removed": bad_json("{text: Hello there.}", "quotes are missing", "@request.json"),
    "backslashes stay": bad_json(r'{\"text\": \"Hello\"}', "backslashes", "@request.json"),
    "Python's dict": bad_json("{'text': 'Hello'}", "not in single ones"),
    "typographic quotes": bad_json("{“text”: “Hello”}", "typographic quotes"),
    "empty": bad_json("", "is empty", "curl --json"),
    "query": typed(
        "", "In the query 'text' is not read", "a JSON body", "curl --json",
        path=f"{NATIVE}?text=Hello&api_key={API_KEY}", body=b"",
    ),
    "OpenAI's text": typed("", "curl --json '{\"input\": \"Hello.\"}'", path=OPENAI),
    "OpenAI's text in quotes": Mistake(
        400, "invalid_request", ("Windows", r'"{\"input\": \"Hello.\"}"'), OPENAI, body=b"'{input:",
    ),
    "not UTF-8": bad_json(b'{"text": "\xe9t\xe9"}', "byte 11 is not UTF-8", "saved as UTF-8"),
    "twice": Mistake(
        400, "invalid_request", ("JSON object", "twice"), body=json.dumps('{"text": "a"}').encode()
    ),
    # wrong format
    "format": Mistake(400, "invalid_request", ("must be 'wav'",), body=spoken(format="x")),
    "misspelt text": Mistake(
        400, "invalid_request", ("no parameter 'txt'", "Is 'text' meant?"), body=b'{"txt": "a"}'
    ),
    "parameter": Mistake(400, "invalid_request", ("Is 'voice_id'",), body=spoken(voiceid="")),
    # wrong path, wrong method
    "path": Mistake(404, "not_found", ("the route is /v1/audio/speech",), "/audio/speech"),
    "slash": Mistake(404, "not_found", ("the route is /tts/generate",), "/tts/generate/"),
    "other API": Mistake(404, "not_found", ("/tts/generate", "/v1/audio/speech"), "/v1/tts"),
    "method": Mistake(405, "method_not_allowed", ("GET", "Allowed: POST."), OPENAI, "GET"),
    # huge text
    "text": Mistake(
        413, "text_too_long", ("101 characters, 100 are allowed", "in parts", "MAX_TEXT_LENGTH"),
        body=spoken(text="x" * 101),
    ),
    "huge text": Mistake(
        413, "payload_too_large", ("at most 100 characters", "in parts", "MAX_TEXT_LENGTH"),
        body=spoken(text="x" * 100_000),
    ),
    "huge name": Mistake(
        413, "payload_too_large", ("at most 16384 bytes", '{"voice_id": "new name"}'),
        "/voices/anna", "PATCH", body=spoken(voice_id="x" * 17_000),
    ),
    # unknown model
    "model": Mistake(
        404, "model_not_found", ("'turbo', only: scripted", "models download turbo", "MODEL=turbo"),
        body=spoken(model="turbo"),
    ),
    "other file": Mistake(
        400, "invalid_voice_id", ("'README.md' is not the name of a sound file", ".wav"), "/voices",
        headers={"X-API-Key": API_KEY, "Content-Type": "multipart/form-data; boundary=b"},
        body=b'--b\r\nContent-Disposition: form-data; name="file"; filename="README.md"\r\n\r\n'
             b"x\r\n--b--\r\n",
    ),
    # unknown voice
    "voice": Mistake(
        404, "voice_not_found", ("'ana'", "'anna.wav' meant", "There are anna.wav, bob.mp3"),
        body=spoken(voice_id="ana"),
    ),
    "ambiguous voice": Mistake(
        404, "voice_not_found", ("Its ending is needed", "eva.mp3 and eva.wav"),
        body=spoken(voice_id="eva"),
    ),
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def voices(service: ContractService) -> None:
    for number, name in enumerate(("anna.wav", "bob.mp3", "eva.mp3", "eva.wav")):
        (service.voices_dir / name).write_bytes(wav(1.1 + number / 10))
    service.scan()


@pytest.mark.parametrize("name", MISTAKES)
def test_message_names_the_mistake_and_its_cure(stranger: httpx.Client, name: str) -> None:
    status, code, words, path, method, headers, body = MISTAKES[name]
    answer = stranger.request(method, f"http://service{path}", headers=headers, content=body)
    error = refusal(answer, status)
    assert error["code"] == code
    rest = error["message"]
    for word in words:
        assert word in rest, error["message"]
        rest = rest.partition(word)[2]
    assert API_KEY not in error["message"]
    assert len(error["message"]) < 400


OTHER_LANGUAGES = {
    "Это предложение написано по-русски.": "is in Cyrillic letters",
    "これは日本語の文章です。": "is in Japanese letters",
    "Das ist ein Satz, der nicht auf Englisch ist.": "looks like German (de)",
}  # fmt: skip


@pytest.mark.parametrize("text", OTHER_LANGUAGES)
def test_text_in_another_language_is_spoken_with_a_notice(client: httpx.Client, text: str) -> None:
    for answer in (
        client.post(NATIVE, json={"text": text}),
        client.get(NATIVE, params={"text": text}),
        client.head(NATIVE, params={"text": text}),
        client.post(OPENAI, json={"input": text}),
    ):
        assert answer.status_code == 200
        notice = answer.headers["X-TTS-Notice"]
        assert f"the text {OTHER_LANGUAGES[text]}, but is spoken as English (en): " in notice
        assert "chatterbox-multilingual speaks" in notice
    english = client.post(NATIVE, json={"text": "The word привет means hello, and is not long."})
    assert "X-TTS-Notice" not in english.headers


def test_speed_and_all_formats_on_every_route(client: httpx.Client) -> None:
    asked = {"speed": 2, "seed": 7}
    for answer in (
        client.post(NATIVE, json={"text": "audio100", "format": "pcm"} | asked),
        client.get(NATIVE, params={"text": "audio100", "format": "raw_pcm"} | asked),
        client.post(OPENAI, json={"input": "audio100", "response_format": "raw_pcm"} | asked),
    ):
        assert len(answer.content) == 100 * 1920 / 2
    types = {"m4a": "audio/mp4", "ogg": "audio/opus", "flac": "audio/flac", "aac": "audio/aac"}
    for name, media_type in types.items():
        for answer in (
            client.get(NATIVE, params={"text": "audio1", "format": name}),
            client.post(OPENAI, json={"input": "audio1", "response_format": name}),
        ):
            assert answer.headers["Content-Type"] == media_type
    assert refusal(client.get(NATIVE, params={"text": "a", "speed": "9"}))["param"] == "speed"
