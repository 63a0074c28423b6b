import pytest

from app.core.model import ModelInfo
from app.speech.model_resolver import resolve_model

MODELS = [ModelInfo("chatterbox-turbo", aliases=("turbo",)), ModelInfo("gpt-own")]


@pytest.mark.parametrize(
    ("name", "resolved"),
    [
        (None, None),
        (" ", None),
        ("tts-1-hd", None),
        ("gpt-4o-mini-tts", None),
        ("eleven_multilingual_v2", None),
        ("turbo", "turbo"),
        (" chatterbox-turbo", "chatterbox-turbo"),
        ("gpt-own", "gpt-own"),
        ("chatterbox", "chatterbox"),
    ],
)
def test_foreign_names_mean_the_default_model(name: str | None, resolved: str | None) -> None:
    assert resolve_model(name, MODELS) == resolved
