import io
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from app.core.errors import VoiceNotFound
from app.settings import Settings
from app.speech.voice_resolver import OPENAI_VOICES, listed_names, resolve_voice
from app.voices.library import VoiceStore
from tests.voices.test_library import LOW


@pytest.fixture
async def known(tmp_path: Path) -> AsyncIterator[Any]:
    """Its voices and its settings, which are all that matters here."""
    store = VoiceStore(tmp_path, tmp_path, tmp_path, 10_000_000)
    for voice_id in ("jane.wav", "john.wav", "john.mp3", "echo.wav"):
        await store.add(voice_id, io.BytesIO(LOW), replace=False)
    aliases = {"nova": "jane", "echo": "jane", "me": "john.mp3", "gone": "gone.wav", "both": "john"}
    aliases["zo\u00eb"] = "jane"
    yield SimpleNamespace(voices=store, settings=Settings(voice_aliases=aliases, _env_file=None))
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
async def test_a_name_is_a_voice_an_alias_or_the_default(
    known: Any, name: str, voice_id: str | None
) -> None:
    assert resolve_voice(name, known.voices, known.settings.voice_aliases) == voice_id


@pytest.mark.parametrize("name", ["john", "Alloy", "nobody", "", "default", "\ud800"])
async def test_what_is_none_of_these_is_no_voice(known: Any, name: str) -> None:
    voice_id = resolve_voice(name, known.voices, known.settings.voice_aliases)
    assert voice_id is not None
    assert voice_id not in known.voices.ids()


async def test_an_alias_of_no_voice_is_told_with_what_it_stands_for(known: Any) -> None:
    for alias, voice in (("gone", "gone.wav"), ("both", "john")):
        with pytest.raises(VoiceNotFound) as missing:
            resolve_voice(alias, known.voices, known.settings.voice_aliases)
        assert f"There is no voice '{voice}', which '{alias}' stands for." in missing.value.message


async def test_what_can_be_asked_for_is_listed_once(known: Any) -> None:
    assert listed_names(known.voices, known.settings.voice_aliases) == {
        "echo.wav": "echo",
        "jane.wav": "jane",
        "john.mp3": "john.mp3",
        "john.wav": "john.wav",
        "nova": "nova (jane)",
        "me": "me (john.mp3)",
        "zo\u00eb": "zo\u00eb (jane)",
        "alloy": "alloy (default voice)",
    }


async def test_without_a_name_left_for_it_the_default_voice_is_not_listed(known: Any) -> None:
    aliases = dict.fromkeys(OPENAI_VOICES, "jane")
    known.settings = Settings(voice_aliases=aliases, _env_file=None)
    assert not any(
        "default" in shown
        for shown in listed_names(known.voices, known.settings.voice_aliases).values()
    )
