"""Resolve the model names of foreign APIs, whose clients often send a fixed one."""

from collections.abc import Sequence

from app.core.errors import ModelNotFound
from app.core.model import ModelInfo
from app.engines.chatterbox.variants import VARIANTS

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


def with_download(error: ModelNotFound, name: str | None, running: str) -> ModelNotFound:
    """`error`, with the way to get the model `name` if it is one of Chatterbox's.

    `running`: the setting MODEL.
    """
    spec = next((spec for spec in VARIANTS.values() if name in (spec.name, spec.id)), None)
    if spec is None:
        return error
    setting = f"{running},{spec.name}" if running not in ("auto", "preview") else spec.name
    return ModelNotFound(
        f"{error.message} 'chatterbox-tts models download {spec.name}' fetches it, and "
        f"MODEL={setting} starts it.",
        param=error.param,
    )
