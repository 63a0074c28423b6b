"""`/voices`: files and names that are accepted or refused."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.api import (
    BOUNDARY,
    all_files,
    code,
    error_code,
    form,
    heard,
    part,
    upload,
    upload_raw,
    wav,
)
from tests.support.contract import ContractService
from tests.support.media import audio_file, tone

LIMIT_BYTES = 1_048_576
SETTINGS = {"max_upload_mb": 1}


@pytest.fixture
def client(service: ContractService) -> Iterator[httpx.Client]:
    """The service has no voice, before and after."""
    with service.client() as client:
        yield client
        for voice_id in client.get("/voices").raise_for_status().json():
            if client.delete(f"/voices/{voice_id}").status_code == 403:
                (service.preloaded_dir / voice_id).unlink()
        service.scan()
        assert client.get("/voices").json() == []
        assert all_files(service.folder) == {}


def test_recording_is_downloaded_as_it_was_uploaded(client: httpx.Client) -> None:
    content = audio_file(tone(1.5))
    upload(client, "Zoë.wav", content)
    answer = client.get("/voices/Zoë.wav")
    assert answer.content == content
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Length"] == str(len(content))
    assert error_code(client.get("/voices/nobody.wav"), 404) == "voice_not_found"


def test_preloaded_voice_above_the_limit_of_uploads_is_downloaded(
    client: httpx.Client, service: ContractService
) -> None:
    content = wav(40)
    assert len(content) > LIMIT_BYTES
    (service.preloaded_dir / "long.wav").write_bytes(content)
    service.scan()
    assert client.get("/voices/long").content == content


@pytest.mark.parametrize(
    ("name", "container", "codec"),
    [
        ("v.wav", "wav", "pcm_s16le"),
        ("v.mp3", "mp3", "libmp3lame"),
        ("v.flac", "flac", "flac"),
        ("v.ogg", "ogg", "libopus"),
        ("v.opus", "ogg", "libopus"),
        ("v.m4a", "ipod", "aac"),
        ("raw.m4a", "adts", "aac"),
        ("v.webm", "webm", "libopus"),
        ("V.WAV", "wav", "pcm_f32le"),
    ],
)
def test_every_allowed_file_type_is_accepted(
    client: httpx.Client, name: str, container: str, codec: str
) -> None:
    content = audio_file(tone(1.5, 48_000), rate=48_000, container=container, codec=codec)
    assert upload(client, name, content).json()["voice_id"] == name
    assert heard(client, name)


def test_voices_are_listed_in_order(client: httpx.Client) -> None:
    names = ["b.wav", "a 2.wav", "B.wav.wav", "é.wav", "10.wav"]
    for name in names:
        assert upload(client, name, wav()).status_code == 201
    assert client.get("/voices").json() == sorted(names)


@pytest.mark.fault(33)
def test_existing_id_is_refused_in_every_spelling_unless_replaced(client: httpx.Client) -> None:
    assert upload(client, "e\u0301.wav", wav(1.1)).json()["voice_id"] == "\xe9.wav"
    for alike in ("\xe9.wav", "e\u0301.wav", "\xc9.wav"):
        for query in ({}, {"replace": "false"}):
            assert error_code(upload(client, alike, wav(1.2), **query), 409) == "voice_exists"
    assert heard(client, "\xe9.wav") == heard(client, "e\u0301.wav") == code(1.1)
    assert upload(client, "\xe9.wav", wav(1.3), replace="true").status_code == 201
    assert heard(client, "\xe9.wav") == code(1.3)
    assert client.delete("/voices/e\u0301.wav").status_code == 200
    assert client.get("/voices").json() == []


def test_file_in_wrong_field_is_named(client: httpx.Client) -> None:
    answer = client.post("/voices", files={"audio": ("v.wav", wav())})
    assert error_code(answer, 400) == "invalid_request"
    message = answer.json()["error"]["message"]
    assert message.startswith("Send one file, as the multipart field 'file', not 'audio', as curl ")


def test_uploaded_voice_hides_preloaded_one(client: httpx.Client, service: ContractService) -> None:
    def listed(**query: str) -> Any:
        return client.get("/voices", params=query).json()

    (service.preloaded_dir / "p.wav").write_bytes(wav(1.1))
    service.scan()
    upload(client, "u.wav", wav(1.2)).raise_for_status()
    assert listed() == ["p.wav", "u.wav"]
    assert (listed(preloaded="true"), listed(preloaded="false")) == (["p.wav"], ["u.wav"])
    assert error_code(client.get("/voices?preloaded=maybe"), 400) == "invalid_request"
    assert heard(client, "p.wav") == code(1.1)
    assert error_code(client.delete("/voices/p.wav"), 403) == "preloaded_voice"

    upload(client, "p.wav", wav(1.3)).raise_for_status()
    assert heard(client, "p.wav") == code(1.3)
    assert listed() == ["p.wav", "u.wav"]
    assert (listed(preloaded="true"), listed(preloaded="false")) == ([], ["p.wav", "u.wav"])

    client.delete("/voices/p.wav").raise_for_status()
    assert heard(client, "p.wav") == code(1.1)
    assert (service.preloaded_dir / "p.wav").read_bytes() == wav(1.1)


def test_voice_is_renamed(client: httpx.Client, service: ContractService) -> None:
    upload(client, "v.wav", wav(1.1)).raise_for_status()
    upload(client, "w.wav", wav(1.2)).raise_for_status()
    answer = client.patch("/voices/v", json={"voice_id": "Anna"})
    assert answer.status_code == 200
    assert answer.json() == {
        "voice_id": "Anna.wav", "message": "Voice 'v.wav' renamed to 'Anna.wav'."
    }  # fmt: skip
    assert client.get("/voices").json() == ["Anna.wav", "w.wav"]
    assert (heard(client, "Anna.wav"), heard(client, "v.wav")) == (code(1.1), None)
    refused = {"W.wav": (409, "voice_exists")}
    refused |= dict.fromkeys(("a/b.wav", "BOB.mp3"), (400, "invalid_voice_id"))
    for name, (status, expected) in refused.items():
        answer = client.patch("/voices/Anna.wav", json={"voice_id": name})
        assert error_code(answer, status) == expected
        assert answer.json()["error"]["param"] == "voice_id"
    assert client.patch("/voices/Anna.wav", json={"name": "x"}).status_code == 400
    assert client.patch("/voices/v.wav", json={"voice_id": "x.wav"}).status_code == 404


def test_deletion_is_answered_with_the_id(client: httpx.Client) -> None:
    upload(client, "huge.wav", wav(1.1)).raise_for_status()
    assert client.delete("/voices/huge").json() == {
        "message": "Voice 'huge.wav' deleted successfully."
    }


@pytest.mark.fault(32)
def test_symlink_is_neither_followed_nor_listed(
    client: httpx.Client, service: ContractService, tmp_path: Path
) -> None:
    target = tmp_path / "elsewhere.wav"
    target.write_bytes(wav(1.1))
    links = [service.voices_dir / "link.wav", service.preloaded_dir / "dir.wav"]
    links[0].symlink_to(target)
    links[1].symlink_to(tmp_path)
    (service.voices_dir / "real.wav").write_bytes(wav(1.2))
    service.scan()
    assert client.get("/voices").json() == ["real.wav"]
    assert heard(client, "link.wav") is None
    assert client.delete("/voices/link.wav").status_code == 404
    assert upload(client, "link.wav", wav(1.3), replace="true").status_code in (201, 409)
    assert target.read_bytes() == wav(1.1)
    for link in links:
        link.unlink(missing_ok=True)


@pytest.mark.fault(36)
def test_read_only_voices_folder_fails_only_uploads(
    client: httpx.Client, service: ContractService
) -> None:
    service.voices_dir.rmdir()
    service.voices_dir.write_text("no folder")
    try:
        assert error_code(upload(client, "v.wav", wav()), 503) == "storage_unavailable"
        assert client.post("/tts/generate", json={"text": "audio1"}).status_code == 200
    finally:
        service.voices_dir.unlink()
        service.voices_dir.mkdir()
    assert upload(client, "v.wav", wav(1.1)).status_code == 201
    assert heard(client, "v.wav") == code(1.1)


HOSTILE_NAMES = [
    b"../v.wav", b"..", b"../../../../tmp/v.wav", b"/v.wav", b"/etc/v.wav", b"..\\v.wav",
    b"a\\v.wav", b"C:\\v.wav", b"\\\\host\\share\\v.wav", b"%2e%2e%2fv.wav", b"..%2fv.wav",
    b".v.wav", b".wav", b"v.wav/", b"sub/v.wav", b"v", b"v.txt", b"v.wav.exe", b"v\x00.wav",
    b"v.wav\x00", b"v\x1b.wav", b"v\r.wav", b"v\n.wav", b"v\r\nX-Evil: 1.wav", b"v\x7f.wav",
    b'v\\".wav', b"v:stream.wav", b"v*.wav", b"<v>.wav", b"v" * 125 + b".wav",
    b"v" * 300 + b".wav", "\u202ev.wav".encode(), "v\u2028.wav".encode(),
    "\U0001f600.wav".encode(), b"README.md", b"%2Fv.wav", b"v%00.wav", b"v%0d%0a.wav",
]  # fmt: skip


@pytest.mark.fault(31)
@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=lambda name: ascii(name[:20]))
def test_hostile_name_is_refused_and_nothing_is_written(
    client: httpx.Client, service: ContractService, name: bytes
) -> None:
    before = all_files(service.folder)
    disposition = b'name="file"; filename="%b"' % name
    for charset in ("", "; charset=utf-16", "; charset=punycode", "; charset=no-such"):
        answer = upload_raw(client, form(part(wav(), disposition)), charset)
        assert error_code(answer, 400) in ("invalid_voice_id", "invalid_request")
    assert client.get("/voices").json() == []
    assert all_files(service.folder) == before


@pytest.mark.fault(31)
def test_filename_star_parameter_is_ignored(client: httpx.Client) -> None:
    disposition = b'name="file"; filename="v.wav"; filename*=UTF-8\'\'..%2fevil.wav'
    assert upload_raw(client, form(part(wav(), disposition))).json()["voice_id"] == "v.wav"


WRITTEN = {
    b'filename="My%20Voice.wav"': "My Voice.wav",
    b"filename*=utf-8''M%C3%BCller.wav": "Müller.wav",
    b"filename=\"=?utf-8?B?TcO8bGxlci53YXY=?=\"; filename*=utf-8''M.wav": "Müller.wav",
    b'filename="M\xfcller.wav"': "Müller.wav",
    "filename=Müller.wav".encode(): "Müller.wav",
}


@pytest.mark.parametrize("written", WRITTEN, ids=ascii)
def test_file_name_is_understood_as_clients_write_it(client: httpx.Client, written: bytes) -> None:
    answer = upload_raw(client, form(part(wav(), b'name="file"; ' + written)))
    assert answer.json()["voice_id"] == WRITTEN[written]
    assert client.get("/voices").json() == [WRITTEN[written]]


UNUSABLE = {
    "text": b"This is not audio.",
    "truncated mp3": audio_file(tone(2), container="mp3", codec="libmp3lame")[:300],
    "silence": audio_file(tone(2, level=0)),
    "0.2 s": wav(0.2),
    "a quarter of an hour": audio_file(tone(900, level=0), container="flac", codec="flac"),
    "over 5 minutes": audio_file(tone(301, 8000), rate=8000, container="mp3", codec="libmp3lame"),
    "m3u8": b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
}
"""`tests/audio/test_sandbox.py` has more, and the reasons."""


@pytest.mark.fault(37, 39, 41)
@pytest.mark.parametrize("what", UNUSABLE)
def test_unusable_file_is_refused_and_deleted(
    client: httpx.Client, service: ContractService, what: str
) -> None:
    before = all_files(service.folder)
    answer = upload(client, "v.wav", UNUSABLE[what])
    assert error_code(answer, 422) == "unusable_audio"
    assert len(answer.json()["error"]["message"]) > 20
    assert "/etc/passwd" not in answer.text
    assert client.get("/voices").json() == []
    assert all_files(service.folder) == before


def test_unusable_file_does_not_replace_the_voice(
    client: httpx.Client,
) -> None:
    upload(client, "v.wav", wav(1.1)).raise_for_status()
    for content, status in ((b"no", 422), (bytes(LIMIT_BYTES + 1), 413)):
        assert upload(client, "v.wav", content, replace="true").status_code == status
    assert heard(client, "v.wav") == code(1.1)


@pytest.mark.fault(38)
def test_lying_length_is_not_trusted(client: httpx.Client) -> None:
    content = bytearray(wav())
    content[40:44] = b"\xf0\xff\xff\xff"
    answer = upload(client, "v.wav", bytes(content))
    assert answer.status_code in (201, 422)
    assert heard(client, "v.wav") == (code(1) if answer.status_code == 201 else None)


@pytest.mark.filterwarnings(  # Starlette does not close the file of an incomplete part
    "ignore:.*SpooledTemporaryFile:pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.fault(30)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"garbage",
        form(),
        form(part(b"v", b'name="voice"; filename="v.wav"')),
        form(part(b"v", b'name="file"')),
        form(part(b"v", b'name="file"; filename=""')),
        form(part(b"v", b'filename="v.wav"')),
        form(part(wav()), part(wav(), b'name="file"; filename="w.wav"')),
        part(wav()),
        form(*[part(b"x", b'name="a"')] * 10_000),
        form(*[part(b"", b'name="file"; filename="v.wav"')] * 10_000),
        form(part(b"x", b"name=" + b"a" * 500_000)),
        b"--%b\r\n" % BOUNDARY + b"A: b\r\n" * 100_000 + b"\r\n" + form(),
        form(part(bytes(900_000), b'name="a"'), part(bytes(900_000), b'name="b"')),
    ],
    ids=lambda body: f"{body[44:64]!a} {len(body)}",
)
def test_form_without_exactly_one_file_is_refused(
    client: httpx.Client, service: ContractService, body: bytes
) -> None:
    before = all_files(service.folder)
    answer = upload_raw(client, body)
    assert answer.status_code in (400, 413)
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert all_files(service.folder) == before


@pytest.mark.parametrize(
    "kind", ["", "application/json", "application/x-www-form-urlencoded", "multipart/mixed"]
)
def test_other_body_type_is_refused_unread(client: httpx.Client, kind: str) -> None:
    answer = client.post("/voices", content=b"a=1&" * 1_000_000, headers={"Content-Type": kind})
    assert error_code(answer, 415) == "unsupported_media_type"


@pytest.mark.parametrize("boundary", ["", "; boundary=" + "x" * 1000])
def test_wrong_boundary_is_refused(client: httpx.Client, boundary: str) -> None:
    headers = {"Content-Type": f"multipart/form-data{boundary}"}
    answer = client.post("/voices", content=form(part(wav())), headers=headers)
    assert error_code(answer, 400) == "invalid_request"


@pytest.mark.parametrize(
    ("size", "limit"), [(LIMIT_BYTES + 1, "1,048,576 bytes"), (3 * LIMIT_BYTES, "1 MB")]
)
def test_file_over_the_limit_is_refused(
    client: httpx.Client, service: ContractService, size: int, limit: str
) -> None:
    before = all_files(service.folder)
    answer = upload_raw(client, form(part(bytes(size))))
    assert error_code(answer, 413) == "payload_too_large"
    error = answer.json()["error"]
    assert error["message"] == f"A voice file may have at most {limit} (MAX_UPLOAD_MB)."
    assert error["param"] == "file"
    assert all_files(service.folder) == before


def test_file_of_exactly_the_limit_is_accepted(client: httpx.Client) -> None:
    content = wav(1.1)
    padded = content + bytes(LIMIT_BYTES - len(content))
    assert upload(client, "v.wav", padded).status_code in (201, 422)
