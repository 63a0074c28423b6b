"""Whatever a file is called: it is refused, or it becomes the one file of that name."""

import io
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unicodedata import is_normalized, normalize
from urllib.parse import quote

import httpx
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from app.core.errors import InvalidVoiceId, VoiceExists
from app.core.unicode import nfc
from app.voices.folder import VoiceFolder
from app.voices.names import ENDINGS, casefold_key, validate_voice_id
from tests.support.api import all_files, form, part, upload, upload_raw, wav
from tests.support.service import Service

FEWER = settings(max_examples=settings().max_examples // 4)
FEW = settings(max_examples=settings().max_examples // 10)

TROUBLE = [
    *("/", "\\", "..", "../", "..\\", "./", "//", "C:", "~", "%2e%2e%2f", "%00", "\0", "\r\n"),
    *("\n", "\t", "\x1b[2J", "\x7f", '"', "'", ";", "*", "?", "<", ">", "|", ":", "$(id)", "`"),
    *(" ", ".", "-", "_", ".wav", ".WAV", ".mp3", ".tar", ".upload-", "README.md", "CON", "nul"),
    *("\u202e", "\u200b", "\ufeff", "\u2028", "\uff0f", "\uff0e", "\u2024", "\U0001f600"),
    *("e\u0301", "\u00e9", "\u0301", "\u0345", "\u0390", "\u1fb7", "\u0344", "\u2126", "\uac00"),
    *("\u1100\u1161", "ß", "ẞ", "İ", "ı", "K", "ﬁ", "ǆ", "ŉ", "²", "٣", "x" * 60, "字" * 60),
]
endings = st.sampled_from([*ENDINGS, ".WAV", "", ".txt"])
wild = st.text(max_size=20) | st.lists(st.sampled_from(TROUBLE) | st.characters()).map("".join)
names = st.tuples(wild, endings).map("".join)
proper = st.characters(categories=["L", "Nd"]) | st.sampled_from(" ._-")
proper_names = st.tuples(st.text(proper, min_size=1, max_size=99), endings).map("".join)


def voice_id_of(name: str) -> str | None:
    try:
        return validate_voice_id(name)
    except InvalidVoiceId:
        return None


@given(names | proper_names)
@example("\u0344" * 64 + "a.wav")
def test_a_voice_id_is_the_plain_name_of_a_file(name: str) -> None:
    voice_id = voice_id_of(name)
    assume(voice_id is not None)
    assert Path(voice_id).name == voice_id
    assert voice_id.isprintable()
    assert not voice_id.startswith((".", "~"))
    assert voice_id.lower().endswith(ENDINGS)
    assert len(voice_id) <= 128
    assert len(voice_id.encode()) <= 255
    assert is_normalized("NFC", voice_id)
    assert validate_voice_id(voice_id) == voice_id


@given(names | proper_names)
def test_unicode_forms_of_a_name_are_one_voice(name: str) -> None:
    forms = [normalize(form, name) for form in ("NFC", "NFD")]
    assert len({voice_id_of(form) for form in forms}) == 1
    assert len({casefold_key(form) for form in (name, *forms, nfc(name), casefold_key(name))}) == 1


@given(proper_names)
def test_voice_id_is_one_file_directly_in_its_folder(name: str) -> None:
    voice_id = voice_id_of(name)
    assume(voice_id is not None)
    with tempfile.TemporaryDirectory() as around:
        folder = VoiceFolder(Path(around, "voices"))
        folder.path.mkdir()
        for move in (folder.create_exclusive, folder.replace):
            temp = folder.new_temp()
            folder.receive(io.BytesIO(b"content"), temp, 100)
            move(temp, voice_id)
            assert list(Path(around).rglob("*")) == [folder.path, folder.path / voice_id]
            assert list(folder.files()) == [str(folder.path / voice_id)]
            for alike in (voice_id.casefold(), normalize("NFD", voice_id)):
                with pytest.raises(VoiceExists):
                    folder.ensure_free(alike)
        assert folder.remove(voice_id)
        assert list(Path(around).rglob("*")) == [folder.path]


# --- over HTTP ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[httpx.Client]:
    """A client of a service with one voice, and with a file outside the voice folder."""
    inside, outside = service.preloaded_dir / "inside.wav", service.folder.parent / "outside.wav"
    for file in (inside, outside):
        file.write_bytes(wav())
    with service.client() as client:
        service.wait_until(lambda: client.get("/voices").json() == ["inside.wav"])
        service.wait_until(
            lambda: any(".prepared" in str(each) for each in all_files(service.folder))
        )
        yield client
    inside.unlink()
    outside.unlink()


@FEWER
@given(names.map(lambda name: name.encode(errors="surrogatepass")) | st.binary(max_size=60))
@example(b"../outside.wav")
def test_rejected_upload_with_any_name_writes_no_file(
    client: httpx.Client, service: Service, name: bytes
) -> None:
    before = all_files(service.folder)
    answer = upload_raw(client, form(part(b"no audio", b'name="file"; filename="%b"' % name)))
    assert answer.status_code in (400, 422), answer.text
    assert all_files(service.folder) == before


@FEWER
@given(names)
@example("")
@example("../outside.wav")
@example("..%2foutside.wav")
def test_delete_with_any_other_name_removes_no_file(
    client: httpx.Client, service: Service, name: str
) -> None:
    before = all_files(service.folder)
    answer = client.delete(f"/voices/{quote(name, safe='')}")
    assert answer.status_code in (403, 404, 405), answer.text
    assert all_files(service.folder) == before


@FEW
@given(proper_names)
def test_accepted_name_is_one_voice_until_deletion(
    client: httpx.Client, service: Service, name: str
) -> None:
    assume(voice_id_of(name) is not None)
    before = all_files(service.folder)
    voice_id = upload(client, name, wav()).raise_for_status().json()["voice_id"]
    assert client.get("/voices").json() == sorted({"inside.wav", voice_id})
    added = all_files(service.folder).keys() - before.keys()
    assert added == {str(service.voices_dir / voice_id)}
    assert client.delete(f"/voices/{quote(voice_id, safe='')}").status_code == 200
    assert all_files(service.folder) == before
