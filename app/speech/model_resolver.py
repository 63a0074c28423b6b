"""Resolve the model names of foreign APIs, whose clients often send a fixed one."""

from collections.abc import Sequence

from app.core.model import ModelInfo

FOREIGN_MODELS = ("tts-1", "gpt-", "eleven_")
"""What the names of OpenAI's and ElevenLabs' models begin with."""


def resolve_model(name: str | None, models: Sequence[ModelInfo]) -> str | None:
    """The name of a model of this service, or None for the default one.

    An unknown name is returned as it is, to be refused.
    """
    if name is None or not name.strip():
        return None
    name = name.strip()
    known = any(name in model.names for model in models)
    return None if name.startswith(FOREIGN_MODELS) and not known else name
