import asyncio
import contextlib
import errno
import hashlib
import io
import logging
import os
import random
import subprocess
import time
import unicodedata
from pathlib import Path
from typing import BinaryIO

import numpy as np
import psutil
import pytest

from app.audio.sandbox import decode, load_decoded
from app.core import errors
from app.voices import folder as voice_files
from app.voices.library import VoiceLibrary
from app.voices.open_voice import PIECE_BYTES
from tests.support.media import audio_file, tone

LOW, HIGH = audio_file(tone(1.5, hz=220)), audio_file(tone(1.5, hz=440))
E_ACUTE, E_AND_ACUTE = "é.wav", unicodedata.normalize("NFD", "é.wav")


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def digest_of(result: BinaryIO) -> str:
    """The digest in the name of a file that is being decoded."""
    return Path(result.name).name.split(".")[1]


class Folders:
    def __init__(self, root: Path) -> None:
        self.user, self.preloaded = root / "voices", root / "preloaded"
        self.decoded = root / "decoded"
        for folder in (self.user, self.preloaded, self.decoded):
            folder.mkdir()

    def store(self, max_upload_bytes: int = 10_000_000) -> VoiceLibrary:
        return VoiceLibrary(self.user, self.preloaded, self.decoded, max_upload_bytes)


@pytest.fixture
def folders(tmp_path):
    return Folders(tmp_path)


@pytest.fixture
async def store(folders):
    store = folders.store()
    await store.scan()
    yield store
    store.close()


async def add(store: VoiceLibrary, voice_id: str, content: bytes = LOW, *, replace: bool = False):
    await store.add(voice_id, io.BytesIO(content), replace=replace)


def in_folder(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


# --- Upload


@pytest.mark.covers("upload privacy")
async def test_an_added_voice_is_listed_decoded_and_private(store, folders):
    await add(store, "Jane 1_a-b.wav")
    assert store.snapshot.ids == ["Jane 1_a-b.wav"]
    assert store.snapshot.digests == {"Jane 1_a-b.wav": digest(LOW)}
    samples, rate = load_decoded(folders.decoded / digest(LOW))
    assert (len(samples), rate) == (24_000, 16_000)
    file = folders.user / "Jane 1_a-b.wav"
    assert file.read_bytes() == LOW
    assert file.stat().st_mode & 0o777 == 0o600
    assert in_folder(folders.user) == [file.name]


@pytest.mark.parametrize(
    "name",
    [
        "../a.wav",
        "/etc/a.wav",
        "a/b.wav",
        "a\\b.wav",
        "%2e%2e%2fa.wav",
        ".hidden.wav",
        ".wav",
        "",
        "wav",
        "a.txt",
        "a.wav\r\nX: y.wav",
        "a\0.wav",
        "a\u202ewav.wav",
        "a\ud800.wav",
        "😀.wav",
        "a" * 125 + ".wav",
        "語" * 100 + ".wav",
    ],
)
async def test_a_hostile_name_writes_nothing(store, folders, tmp_path, name):
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(errors.InvalidVoiceId):
        await add(store, name)
    assert sorted(tmp_path.rglob("*")) == before


async def test_letters_of_any_language_may_name_a_voice(store):
    for name in (E_AND_ACUTE, "声.wav", "Ж1.WAV", "a" * 124 + ".wav"):
        await add(store, name)
    assert store.snapshot.ids == sorted([E_ACUTE, "声.wav", "Ж1.WAV", "a" * 124 + ".wav"])


@pytest.mark.parametrize(
    ("first", "second"),
    [("a.wav", "a.wav"), ("a.wav", "A.wav"), (E_ACUTE, E_AND_ACUTE), ("É.wav", E_AND_ACUTE)],
)
async def test_one_name_in_two_spellings_is_one_voice(store, folders, first, second):
    await add(store, first)
    with pytest.raises(errors.VoiceExists) as taken:
        await add(store, second, HIGH)
    assert repr(first) in taken.value.message
    assert "?replace=true" in taken.value.message
    assert store.snapshot.digests == {first: digest(LOW)}
    await add(store, second, HIGH, replace=True)
    final = unicodedata.normalize("NFC", second)
    assert store.snapshot.digests == {final: digest(HIGH)}
    assert in_folder(folders.user) == [final]


async def test_voice_is_found_without_extension_if_unambiguous(store):
    for voice_id in ("jane.wav", "a.b.opus", "john.wav", "john.mp3", "wav.wav", E_ACUTE):
        await add(store, voice_id)
    assert len(store.snapshot.ids) == 6  # john is two voices
    named = {"jane": "jane.wav", "a.b": "a.b.opus", "wav": "wav.wav", "john.mp3": "john.mp3"}
    named |= {E_AND_ACUTE: E_ACUTE, Path(E_AND_ACUTE).stem: E_ACUTE}
    assert {name: store.find(name) for name in named} == named
    for name in ("john", "a", "Jane", "jane.", "jane.mp3", ".wav", "", "../jane"):
        assert store.find(name) is None


async def test_one_of_parallel_uploads_of_a_name_succeeds(store, folders, monkeypatch):
    decoded = []

    async def counted(media: BinaryIO, result: BinaryIO, limits: object) -> None:
        decoded.append(digest_of(result))
        await decode(media, result)

    monkeypatch.setattr("app.voices.decoded_audio.decode", counted)
    contents = [audio_file(tone(1.1, hz=200 + i)) for i in range(20)]
    outcomes = await asyncio.gather(
        *(add(store, "voice.wav", content) for content in contents), return_exceptions=True
    )
    assert [type(o) for o in outcomes if o].count(errors.VoiceExists) == 19
    winner = outcomes.index(None)
    assert store.snapshot.digests == {"voice.wav": digest(contents[winner])}
    assert (folders.user / "voice.wav").read_bytes() == contents[winner]
    assert in_folder(folders.user) == ["voice.wav"]
    assert in_folder(folders.decoded) == decoded == [digest(contents[winner])]


async def test_an_upload_succeeds_after_a_rejected_one_of_the_same_name(store):
    outcomes = await asyncio.gather(
        add(store, "voice.wav", b"no audio"), add(store, "voice.wav"), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [errors.UnusableAudio, type(None)]
    assert store.snapshot.ids == ["voice.wav"]


async def test_two_masters_cannot_both_create_a_voice(store, folders):
    other = folders.store()
    outcomes = await asyncio.gather(
        add(store, "voice.wav", LOW), add(other, "voice.wav", HIGH), return_exceptions=True
    )
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["NoneType", "VoiceExists"]
    await store.scan()
    await other.scan()
    other.close()
    winner = [LOW, HIGH][outcomes.index(None)]
    assert store.snapshot.digests == other.snapshot.digests == {"voice.wav": digest(winner)}


async def test_works_on_file_systems_without_hard_links(store, folders, monkeypatch):
    def no_links(*args):
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", no_links)
    await add(store, "a.wav")
    with pytest.raises(FileExistsError):
        voice_files._move_to_free_name(folders.user / "x", folders.user / "a.wav")
    assert store.snapshot.digests == {"a.wav": digest(LOW)}
    assert in_folder(folders.user) == ["a.wav"]


# --- Uploads that fail


async def test_refused_content_leaves_no_file(store, folders):
    await add(store, "old.wav")
    with pytest.raises(errors.UnusableAudio, match="shorter"):
        await add(store, "new.wav", audio_file(tone(0.2)))
    with pytest.raises(errors.UnusableAudio):
        await add(store, "old.wav", b"no audio", replace=True)
    assert store.snapshot.digests == {"old.wav": digest(LOW)}
    assert in_folder(folders.user) == ["old.wav"]
    assert in_folder(folders.decoded) == [digest(LOW)]


async def test_content_may_be_as_large_as_allowed_and_no_larger(folders):
    store = folders.store(max_upload_bytes=len(LOW))
    await add(store, "fits.wav")
    with pytest.raises(errors.PayloadTooLarge):
        await add(store, "large.wav", LOW + b"\0")
    store.close()
    assert in_folder(folders.user) == ["fits.wav"]


@pytest.mark.fault(36)
@pytest.mark.parametrize(
    ("number", "error"),
    [(errno.ENOSPC, errors.StorageFull), (errno.EROFS, errors.StorageUnavailable)],
)
async def test_failing_disk_leaves_the_old_voice(store, folders, monkeypatch, number, error):
    def failing(descriptor):
        raise OSError(number, os.strerror(number))

    await add(store, "a.wav")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        with pytest.raises(error):
            await add(store, "a.wav", HIGH, replace=True)
    assert in_folder(folders.user) == ["a.wav"]
    assert (folders.user / "a.wav").read_bytes() == LOW
    await add(store, "a.wav", HIGH, replace=True)
    assert store.snapshot.digests == {"a.wav": digest(HIGH)}


@pytest.fixture
def tiny_disk(tmp_path):
    disk = tmp_path / "voices"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=96k", "none", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.fault(36)
async def test_a_full_disk_is_reported_and_recovers(tiny_disk, tmp_path):
    (tmp_path / "decoded").mkdir()
    store = VoiceLibrary(tiny_disk, tmp_path / "preloaded", tmp_path / "decoded", 10_000_000)
    await add(store, "a.wav")
    with pytest.raises(errors.StorageFull):
        await add(store, "b.wav", audio_file(tone(5)))
    assert in_folder(tiny_disk) == ["a.wav"]
    await store.delete("a.wav")
    await add(store, "b.wav", HIGH)
    assert store.snapshot.digests == {"b.wav": digest(HIGH)}
    store.close()


async def test_unwritable_folder_is_storage_unavailable(folders, tmp_path):
    folders.user.rmdir()
    folders.user.write_text("a file where the folder should be")
    store = folders.store()
    with pytest.raises(errors.StorageUnavailable):
        await add(store, "a.wav")
    with pytest.raises(errors.StartupError, match="cannot be read"):
        await store.scan()
    store.close()


async def test_an_upload_cancelled_at_any_moment_leaves_no_fragment(store, folders):
    others = psutil.Process().children()  # services of other tests' fixtures
    for patience_s in (0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.15, 0.2, 0.25, 0.3):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await add(store, "a.wav", replace=True)
        assert in_folder(folders.user) in ([], ["a.wav"])
        assert psutil.Process().children() == others
        await store.scan()
        assert store.snapshot.ids == in_folder(folders.user)
        assert in_folder(folders.decoded) == list(store.snapshot.digests.values())
        if store.snapshot.ids:
            await store.delete("a.wav")


async def test_only_old_leftovers_of_crashed_uploads_are_removed(folders):
    for name, age_s in ((".upload-old", 4_000), (".upload-new", 0), (".other", 4_000)):
        (folders.user / name).write_bytes(LOW)
        os.utime(folders.user / name, (time.time() - age_s,) * 2)
    store = folders.store()
    await store.scan()
    store.close()
    assert store.snapshot.ids == []
    assert in_folder(folders.user) == [".other", ".upload-new"]


# --- Deletion and hiding


async def test_deleting_a_voice_removes_file_and_decoded_audio(store, folders):
    await add(store, E_ACUTE)
    await add(store, "b.wav")
    await store.delete("b.wav")
    assert in_folder(folders.decoded) == [digest(LOW)]  # the other voice has the same bytes
    await store.delete(E_AND_ACUTE)
    assert store.snapshot.ids == in_folder(folders.user) == in_folder(folders.decoded) == []
    with pytest.raises(errors.VoiceNotFound):
        await store.delete(E_ACUTE)


async def test_one_of_parallel_deletions_succeeds(store):
    await add(store, "a.wav")
    outcomes = await asyncio.gather(
        *(store.delete("a.wav") for _ in range(10)), return_exceptions=True
    )
    assert sorted(type(o).__name__ for o in outcomes) == ["VoiceNotFound"] * 9 + ["str"]


async def test_a_users_voice_hides_a_preloaded_one_until_deleted(store, folders):
    (folders.preloaded / "a.wav").write_bytes(LOW)
    await store.scan()
    with pytest.raises(errors.PreloadedVoice):
        await store.delete("a.wav")
    await add(store, "a.wav", HIGH)
    assert store.snapshot.digests == {"a.wav": digest(HIGH)}
    await store.delete("a.wav")
    assert store.snapshot.digests == {"a.wav": digest(LOW)}
    assert in_folder(folders.decoded) == [digest(LOW)]
    assert in_folder(folders.preloaded) == ["a.wav"]


async def test_voices_are_preloaded_if_the_user_has_no_file_for_them(store, folders):
    for name in ("a.wav", E_AND_ACUTE):
        (folders.preloaded / name).write_bytes(LOW)
    await store.scan()
    await add(store, "b.wav")
    assert store.snapshot.preloaded_ids == ["a.wav", E_ACUTE]
    assert store.snapshot.uploaded_ids == ["b.wav"]
    await add(store, "a.wav", HIGH)
    assert store.snapshot.preloaded_ids == [E_ACUTE]
    assert store.snapshot.uploaded_ids == ["a.wav", "b.wav"]
    assert store.snapshot.ids == ["a.wav", "b.wav", E_ACUTE]


@pytest.mark.parametrize("name", ["../preloaded/a.wav", "a.wav/", "nothing.wav", "\ud800", ""])
async def test_deleting_an_unlisted_file_changes_nothing(store, folders, name):
    (folders.preloaded / "a.wav").write_bytes(LOW)
    await store.scan()
    with pytest.raises(errors.VoiceNotFound):
        await store.delete(name)
    assert store.snapshot.ids == ["a.wav"]


# --- Pins


async def test_a_pinned_voice_outlives_its_file(store, folders):
    await add(store, "a.wav")
    first, second = store.pin("a.wav"), store.pin("a.wav")
    assert first == second == digest(LOW)
    await add(store, "a.wav", HIGH, replace=True)
    assert store.pin("a.wav") == digest(HIGH)
    await store.delete("a.wav")
    assert in_folder(folders.decoded) == sorted([digest(LOW), digest(HIGH)])
    store.unpin(digest(HIGH))
    store.unpin(first)
    await store.scan()
    assert in_folder(folders.decoded) == [digest(LOW)]
    store.unpin(second)
    await store.scan()
    assert in_folder(folders.decoded) == []


async def test_pinning_an_unknown_voice_fails(store):
    with pytest.raises(errors.VoiceNotFound) as missing:
        store.pin("a.wav")
    assert missing.value.param == "voice_id"
    assert "'a.wav'" in missing.value.message


async def test_unknown_voice_error_names_the_likeliest_and_those_that_exist(store):
    with pytest.raises(errors.VoiceNotFound, match="There are none yet: POST /voices adds one"):
        store.pin("jane")
    for voice_id in ("jane.wav", "john.wav", "john.mp3"):
        await add(store, voice_id)
    there_are = "There are jane.wav, john.mp3 and john.wav."
    said = {
        "Jane": f"There is no voice 'Jane'. Is 'jane.wav' meant? {there_are}",
        "jahne.mp3": f"There is no voice 'jahne.mp3'. Is 'jane.wav' meant? {there_are}",
        "xyz": f"There is no voice 'xyz'. {there_are}",
        "john": "There is no voice 'john'. Its ending is needed: there are john.mp3 and john.wav.",
    }
    for name, message in said.items():
        with pytest.raises(errors.VoiceNotFound) as missing:
            store.pin(name)
        assert missing.value.message == message
    store.unpin(store.pin("jane"))


async def test_renamed_voice_keeps_its_content_and_its_pins(store, folders):
    await add(store, "a.wav")
    pinned = store.pin("a.wav")
    assert await store.rename("a", "Bo") == ("a.wav", "Bo.wav")
    assert await store.rename("Bo.wav", "bo.wav") == ("Bo.wav", "bo.wav")
    assert store.snapshot.ids == in_folder(folders.user) == ["bo.wav"]
    assert store.pin("bo") == pinned
    await store.scan()
    assert store.snapshot.ids == ["bo.wav"]


async def test_voice_that_is_replaced_meanwhile_is_renamed_with_its_new_content(store, monkeypatch):
    replace, begun = voice_files.VoiceFolder.replace, asyncio.Event()
    loop = asyncio.get_running_loop()

    def announced(*args: object) -> None:
        loop.call_soon_threadsafe(begun.set)
        replace(*args)

    await add(store, "a.wav")
    monkeypatch.setattr(voice_files.VoiceFolder, "replace", announced)
    replacing = asyncio.create_task(add(store, "a.wav", HIGH, replace=True))
    await begun.wait()
    await store.rename("a.wav", "b.wav")
    await replacing
    assert store.snapshot.digests == {"b.wav": digest(HIGH)}


async def test_voice_is_not_renamed_to_a_taken_or_invalid_name(store, folders):
    await add(store, "a.wav")
    await add(store, "b.wav")
    (folders.preloaded / "p.wav").write_bytes(LOW)
    await store.scan()
    refused = {
        ("a.wav", "B.wav"): errors.VoiceExists,
        ("a.wav", "../c.wav"): errors.InvalidVoiceId,
        ("c.wav", "d.wav"): errors.VoiceNotFound,
        ("p.wav", "q.wav"): errors.PreloadedVoice,
    }
    for names, kind in refused.items():
        with pytest.raises(kind) as error:
            await store.rename(*names)
        assert error.value.param == "voice_id"
    assert in_folder(folders.user) == ["a.wav", "b.wav"]
    assert in_folder(folders.preloaded) == ["p.wav"]


async def test_download_is_read_in_pieces_whatever_becomes_of_the_file(store, folders):
    content = audio_file(tone(20))
    await add(store, "a.wav", content)
    opened = await store.open("a")
    pieces = [await opened.read()]
    await store.rename("a", "b")
    await store.delete("b")
    while piece := await opened.read():
        pieces.append(piece)
    assert opened.size == len(content)
    assert len(pieces) > 2
    assert max(map(len, pieces)) == PIECE_BYTES
    assert b"".join(pieces) == content
    opened.close()


async def test_download_of_a_file_that_is_cut_off_fails(store, folders):
    await add(store, "a.wav", audio_file(tone(20)))
    opened = await store.open("a")
    await opened.read()
    os.truncate(folders.user / "a.wav", PIECE_BYTES)
    with pytest.raises(OSError, match="cut off"):
        await opened.read()
    opened.close()


@pytest.mark.parametrize("voice_id", ["a\r\n\0.wav", "\u202egnp.wav", "\ud800", "x" * 100_000])
async def test_not_found_error_shortens_and_escapes_the_id(store, voice_id):
    with pytest.raises(errors.VoiceNotFound) as missing:
        store.pin(voice_id)
    assert missing.value.message.isprintable()
    assert len(missing.value.message) < 200
    with pytest.raises(errors.VoiceNotFound) as still_missing:
        await store.delete(voice_id)
    assert still_missing.value.message == missing.value.message


@pytest.mark.fault(35)
async def test_interleaved_upload_deletion_and_use_get_one_exact_version(store, folders):
    expected = {digest(LOW): 220, digest(HIGH): 440}
    order = random.Random(1)
    heard = missed = 0

    async def change() -> None:
        for turn in range(5):
            await add(store, "a.wav", (LOW, HIGH)[turn % 2], replace=True)
            if order.random() < 0.5:
                await store.delete("a.wav")

    async def use() -> None:
        nonlocal heard, missed
        try:
            pinned = store.pin("a.wav")
        except errors.VoiceNotFound:
            missed += 1
            return
        try:
            for _ in range(order.randrange(5)):
                await asyncio.to_thread(load_decoded, folders.decoded / pinned)
            samples, rate = load_decoded(folders.decoded / pinned)
        finally:
            store.unpin(pinned)
        peak = np.argmax(np.abs(np.fft.rfft(samples))) * rate / len(samples)
        assert peak == pytest.approx(expected[pinned], abs=1)
        heard += 1

    changing = asyncio.create_task(change())
    uses = []
    while not changing.done() or len(uses) < 300:
        uses.append(asyncio.create_task(use()))
        await asyncio.sleep(0.005 if not changing.done() else 0)
    await asyncio.gather(changing, *uses)
    assert heard + missed == len(uses)
    assert heard
    await store.scan()
    assert in_folder(folders.decoded) == sorted(store.snapshot.digests.values())
    assert not store.decoded.pins


# --- What lies in the folders


async def test_the_shipped_voice_is_usable(folders):
    shipped = Path(__file__).parents[2] / "preloaded-voices"
    store = VoiceLibrary(folders.user, shipped, folders.decoded, 10_000_000)
    await store.scan()
    store.close()
    assert "austen.wav" in store.snapshot.ids
    assert (shipped / "austen.wav").stat().st_size < 400_000


async def test_lists_only_voices_and_logs_each_other_file_once(store, folders, caplog):
    (folders.user / "good.wav").write_bytes(LOW)
    (folders.user / "README.md").write_text("about")
    (folders.user / ".hidden.wav").write_bytes(LOW)
    (folders.user / "folder.wav").mkdir()
    (folders.user / "link.wav").symlink_to("good.wav")
    os.mkfifo(folders.user / "fifo.wav")
    (folders.user / "b*d\n.wav").write_bytes(LOW)
    (folders.user / "junk.wav").write_text("junk")
    (folders.user / os.fsdecode(b"\xff.wav")).write_bytes(LOW)
    for _ in range(2):
        await store.scan()
    assert store.snapshot.ids == ["good.wav"]
    warned = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert sorted(Path(warning.split("'")[1]).name for warning in warned) == [
        "\\udcff.wav",
        "b*d\\n.wav",
        "junk.wav",
    ]
    (folders.user / "junk.wav").write_text("other junk")
    await store.scan()
    assert sum("junk.wav" in r.getMessage() for r in caplog.records) == 2


async def test_the_log_counts_the_voices_of_each_folder(store, folders, caplog):
    caplog.set_level(logging.INFO)
    (folders.preloaded / "a.wav").write_bytes(LOW)
    (folders.preloaded / "junk.wav").write_text("junk")
    await store.scan()
    caplog.clear()
    await store.log_folders()
    assert caplog.messages == [f"voices: 0 in {folders.user}, 1 in {folders.preloaded}"]


async def test_warns_of_unusable_voice_folders(store, folders, caplog, monkeypatch):
    folders.preloaded.rmdir()
    monkeypatch.setattr("app.voices.folder.os.access", lambda path, mode: False)
    await store.log_folders()
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING] == [
        f"the voices folder {folders.user} cannot be written: let the user of the service write to "
        "it, or set VOICES_DIR to another",
        f"the voices folder {folders.preloaded} does not exist: make it, or set "
        "PRELOADED_VOICES_DIR to another",
    ]


async def test_unusable_user_file_hides_no_preloaded_voice(store, folders):
    (folders.preloaded / "a.wav").write_bytes(LOW)
    (folders.user / "a.wav").write_text("junk")
    await store.scan()
    assert store.snapshot.digests == {"a.wav": digest(LOW)}


async def test_both_unicode_forms_on_disk_are_one_voice(store, folders):
    (folders.user / E_AND_ACUTE).write_bytes(LOW)
    await store.scan()
    assert store.snapshot.digests == {E_ACUTE: digest(LOW)}
    (folders.user / E_ACUTE).write_bytes(HIGH)
    await store.scan()
    assert store.snapshot.digests == {E_ACUTE: digest(HIGH)}
    await store.delete(E_ACUTE)
    assert store.snapshot.ids == in_folder(folders.user) == []


async def test_a_scan_reads_only_changed_files(store, folders, monkeypatch):
    (folders.user / "a.wav").write_bytes(LOW)
    (folders.user / "b.wav").write_bytes(LOW)
    await store.scan()
    read = []
    monkeypatch.setattr(
        "app.voices.scanner.digest_of",
        lambda path: read.append(Path(path).name) or voice_files.digest_of(path),
    )
    await store.scan()
    assert read == []
    (folders.user / "b.wav").write_bytes(HIGH)
    await store.scan()
    assert read == ["b.wav"]
    assert store.snapshot.digests == {"a.wav": digest(LOW), "b.wav": digest(HIGH)}
    await add(store, "c.wav")
    await store.scan()
    assert read == ["b.wav"]


async def test_unreadable_file_is_logged_once_and_retried(store, folders, monkeypatch, caplog):
    now, tried = 100.0, []

    async def no_room(media: BinaryIO, target: Path, limits: object) -> None:
        tried.append(target.name)
        raise errors.StorageFull("There is no space left for the decoded audio.")

    def complaints() -> int:
        return sum("cannot be read now" in r.getMessage() for r in caplog.records)

    monkeypatch.setattr("app.voices.scanner.monotonic", lambda: now)
    file = folders.user / "a.wav"
    file.write_bytes(LOW)
    with monkeypatch.context() as patch:
        patch.setattr("app.voices.decoded_audio.decode", no_room)
        for _ in range(3):
            await store.scan()
        assert len(tried) == complaints() == 1
        now += 60
        await store.scan()
        assert (len(tried), complaints()) == (2, 1)
        file.write_bytes(HIGH)
        await store.scan()
        assert len(tried) == 3
        assert complaints() == 2
        file.unlink()
        await store.scan()
        file.write_bytes(HIGH)
        await store.scan()
        assert complaints() == 3
    now += 60
    await store.scan()
    assert store.snapshot.digests == {"a.wav": digest(HIGH)}
    assert not store.scanner.failures


async def test_retries_a_file_after_its_decoder_was_killed(store, folders, monkeypatch, caplog):
    now = 100.0
    monkeypatch.setattr("app.voices.scanner.monotonic", lambda: now)
    (folders.user / "a.wav").write_bytes(LOW)
    with monkeypatch.context() as patch:
        patch.setattr("app.audio.sandbox._run_child", struck_down)
        await store.scan()
    assert store.snapshot.ids == []
    assert "a.wav' cannot be read now: " in caplog.text
    now += 10
    await store.scan()
    assert store.snapshot.ids == []
    now += 60
    await store.scan()
    assert store.snapshot.ids == ["a.wav"]


async def test_ignores_a_file_that_kills_every_decoder(store, folders, monkeypatch, caplog):
    now, struck = 100.0, []
    monkeypatch.setattr("app.voices.scanner.monotonic", lambda: now)

    async def counted(*args: object) -> int:
        struck.append(args)
        return await struck_down()

    monkeypatch.setattr("app.audio.sandbox._run_child", counted)
    (folders.user / "a.wav").write_bytes(LOW)
    for _ in range(10):
        await store.scan()
        now += 100
    assert len(struck) == 3
    assert "a.wav' is ignored: " in caplog.text


async def test_ignores_a_file_whatever_it_is_refused_for(store, folders, monkeypatch, caplog):
    async def refused(*args: object) -> None:
        raise errors.InvalidRequest("it is odd")

    monkeypatch.setattr("app.voices.decoded_audio.decode", refused)
    (folders.user / "a.wav").write_bytes(LOW)
    await store.scan()
    assert store.snapshot.ids == []
    assert "a.wav' is ignored: it is odd" in caplog.text


async def struck_down(*args: object) -> int:
    return -9


async def test_listed_voices_are_always_decoded(store, folders):
    for turn in range(3):
        for name in ("a.wav", "b.wav", "c.wav"):
            (folders.user / name).write_bytes(
                audio_file(tone(1.1, hz=200 + 50 * turn)) + name.encode()
            )
        scan = asyncio.create_task(store.scan())
        while not scan.done():
            assert {*store.snapshot.digests.values()} <= {*in_folder(folders.decoded)}
            await asyncio.sleep(0.001)
        await scan
        assert len(store.snapshot.ids) == 3


async def test_on_change_is_called_once_per_change(store, folders):
    told = []
    store.on_change = told.append
    await add(store, "a.wav")
    await store.scan()
    (folders.user / "a.wav").unlink()
    await store.scan()
    await store.scan()
    assert told == [{"a.wav": digest(LOW)}, {}]


async def test_watch_finds_changes_by_others(store, folders):
    changes = asyncio.Queue()
    store.on_change = changes.put_nowait
    watching = asyncio.create_task(store.watch(0.01))
    (folders.user / "a.wav").write_bytes(LOW)
    assert await changes.get() == {"a.wav": digest(LOW)}
    replacement = folders.user / ".copy"
    replacement.write_bytes(HIGH)
    replacement.rename(folders.user / "a.wav")
    assert await changes.get() == {"a.wav": digest(HIGH)}
    (folders.user / "a.wav").unlink()
    assert await changes.get() == {}
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching


async def test_voices_stay_if_a_folder_becomes_unreadable(store, folders, caplog):
    await add(store, "a.wav")
    aside = folders.user.rename(folders.user.with_name("aside"))
    folders.user.write_text("a file where the folder was")
    await store.scan()
    await store.scan()
    assert store.snapshot.digests == {"a.wav": digest(LOW)}
    assert [r.levelname for r in caplog.records if "cannot be read" in r.getMessage()] == ["ERROR"]
    folders.user.unlink()
    aside.rename(folders.user)
    await add(store, "b.wav", HIGH)
    await store.scan()
    assert store.snapshot.ids == ["a.wav", "b.wav"]


async def test_rereads_a_file_that_changed_while_it_was_read(store, folders, monkeypatch):
    file = folders.user / "a.wav"
    file.write_bytes(LOW)

    def changed_behind_its_back(path: str) -> str:
        found = voice_files.digest_of(path)
        file.write_bytes(HIGH)
        return found

    with monkeypatch.context() as patch:
        patch.setattr("app.voices.scanner.digest_of", changed_behind_its_back)
        await store.scan()
    assert store.snapshot.ids == in_folder(folders.decoded) == []
    await store.scan()
    assert store.snapshot.digests == {"a.wav": digest(HIGH)}


# --- Many voices, and what is gone


async def test_voices_that_are_not_read_yet_are_read_on_demand(folders, monkeypatch):
    for number in range(8):
        content = audio_file(tone(1.1, hz=200 + number))
        (folders.user / f"{number:02}.wav").write_bytes(content)
    order, started, go_on = [], asyncio.Event(), asyncio.Event()

    async def held(media: BinaryIO, result: BinaryIO, limits: object) -> None:
        order.append(digest_of(result))
        started.set()
        await go_on.wait()
        await decode(media, result)

    monkeypatch.setattr("app.voices.decoded_audio.decode", held)
    store = folders.store()
    scanning = asyncio.create_task(store.scan())
    await started.wait()
    for name in ("07.wav", "07"):
        with pytest.raises(errors.NotReady):
            store.pin(name)
    with pytest.raises(errors.VoiceNotFound):
        store.pin("08.wav")
    go_on.set()
    await scanning
    assert order.index(store.snapshot.digests["07.wav"]) < 6  # after those that had begun
    assert store.pin("07.wav") == store.pin("07")
    store.close()


@pytest.mark.fault(98)
async def test_voices_have_a_maximum_number(folders, monkeypatch, caplog):
    for module in ("library", "scanner"):
        monkeypatch.setattr(f"app.voices.{module}.MAX_VOICES", 2)
    for name in ("c.wav", "b.wav", "a.wav"):
        (folders.user / name).write_bytes(LOW)
    store = folders.store()
    for _ in range(2):
        await store.scan()
    assert store.snapshot.ids == ["a.wav", "b.wav"]
    assert caplog.messages.count("there are 3 voices; 2 are used") == 1
    with pytest.raises(errors.StorageFull):
        await add(store, "d.wav", HIGH)
    await add(store, "a.wav", HIGH, replace=True)
    assert store.snapshot.digests["a.wav"] == digest(HIGH)
    store.close()


@pytest.mark.fault(101)
async def test_audio_that_vanished_is_decoded_again_and_announced(store, folders):
    changes = []
    await add(store, "a.wav")
    store.on_change = changes.append
    (folders.decoded / digest(LOW)).unlink()
    await store.scan()
    assert in_folder(folders.decoded) == [digest(LOW)]
    assert changes == [{"a.wav": digest(LOW)}]
    (folders.decoded / digest(LOW)).write_bytes(b"cut off")
    await add(store, "b.wav")
    assert len(load_decoded(folders.decoded / digest(LOW))[0]) == 24_000


async def test_files_of_unknown_voices_are_removed(store, folders):
    await add(store, "a.wav")
    for name in (f"{digest(LOW)}.prepared", digest(HIGH), f"{digest(HIGH)}.prepared", ".part"):
        (folders.decoded / name).touch()
    await store.scan()
    assert in_folder(folders.decoded) == [".part", digest(LOW), f"{digest(LOW)}.prepared"]
    await store.delete("a.wav")
    assert in_folder(folders.decoded) == [".part"]


async def test_a_change_whose_publication_is_cancelled_is_published_later(
    store, folders, monkeypatch
):
    def cancelled(*args: object) -> None:
        raise asyncio.CancelledError

    with monkeypatch.context() as patch:
        patch.setattr("app.voices.scanner.VoiceSnapshot.of", cancelled)
        with pytest.raises(asyncio.CancelledError):
            await add(store, "a.wav")
    await store.scan()
    assert store.snapshot.digests == {"a.wav": digest(LOW)}
    assert in_folder(folders.decoded) == [digest(LOW)]
