import io
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from app.core.errors import VoiceNotFound
from app.settings import Settings
from app.speech.voice_resolver import OPENAI_VOICES, listed_names, resolve_voice
from app.voices.library import VoiceLibrary
from tests.voices.test_library import LOW


@pytest.fixture
async def state(tmp_path: Path) -> AsyncIterator[Any]:
    """An object with `voices` and `settings`."""
    store = VoiceLibrary(tmp_path, tmp_path, tmp_path, 10_000_000)
    for voice_id in ("jane.wav", "john.wav", "john.mp3", "echo.wav", "me.wav", "me.mp3"):
        await store.add(voice_id, io.BytesIO(LOW), replace=False)
    aliases = {"nova": "jane", "echo": "jane", "me": "john.mp3", "gone": "gone.wav", "both": "john"}
    aliases["zo\u00eb"] = "jane"
    yield SimpleNamespace(voices=store, settings=Settings(voice_aliases=aliases))
    store.close()


@pytest.mark.parametrize(
    ("name", "voice_id"),
    [
        ("jane.wav", "jane.wav"),
        ("jane", "jane.wav"),
        (" jane ", "jane.wav"),
        ("john.mp3", "john.mp3"),
        ("me", "john.mp3"),
        ("nova", "jane.wav"),
        ("echo", "echo.wav"),
        ("zo\u00eb", "jane.wav"),
        ("zoe\u0308", "jane.wav"),
        ("alloy", None),
        ("cedar", None),
    ],
)
async def test_resolves_voices_aliases_and_openai_names(
    state: Any, name: str, voice_id: str | None
) -> None:
    assert resolve_voice(name, state.voices, state.settings.voice_aliases) == voice_id


@pytest.mark.parametrize("name", ["john", "Alloy", "nobody", "", "default", "\ud800"])
async def test_other_names_are_returned_unchanged(state: Any, name: str) -> None:
    voice_id = resolve_voice(name, state.voices, state.settings.voice_aliases)
    assert voice_id is not None
    assert voice_id not in state.voices.snapshot.ids


async def test_not_found_error_names_the_alias_and_its_voice(state: Any) -> None:
    for alias, voice in (("gone", "gone.wav"), ("both", "john")):
        with pytest.raises(VoiceNotFound) as missing:
            resolve_voice(alias, state.voices, state.settings.voice_aliases)
        assert f"There is no voice '{voice}', which '{alias}' stands for." in missing.value.message


async def test_lists_each_voice_name_once(state: Any) -> None:
    assert listed_names(state.voices.snapshot, state.settings.voice_aliases) == {
        "echo.wav": "echo",
        "jane.wav": "jane",
        "john.mp3": "john.mp3",
        "john.wav": "john.wav",
        "me.mp3": "me.mp3",
        "me.wav": "me.wav",
        "nova": "nova (jane)",
        "me": "me (john.mp3)",
        "zo\u00eb": "zo\u00eb (jane)",
        "alloy": "alloy (default voice)",
    }


async def test_default_voice_is_not_listed_if_all_its_names_are_taken(state: Any) -> None:
    aliases = dict.fromkeys(OPENAI_VOICES, "jane")
    state.settings = Settings(voice_aliases=aliases)
    assert not any(
        "default" in shown
        for shown in listed_names(state.voices.snapshot, state.settings.voice_aliases).values()
    )
