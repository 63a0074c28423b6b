"""Complete the parameters of a request for its model and its voice."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from msgspec.structs import replace

from app.core.model import ModelInfo
from app.core.params import SynthesisParams
from app.engines.languages import language_notice, resolve_language
from app.speech.options import SpeechOptions
from app.text.languages import language_of, parse_language
from app.voices.language import named_language


class CompleteParams(NamedTuple):
    """`notice`: says what was ignored, or chosen for the client; None if nothing was."""

    params: SynthesisParams
    notice: str | None


@dataclass(frozen=True)
class RequestedSpeech:
    """What a request asks for. `voice_id`: with its ending; `voice_language`: None if unknown."""

    options: SpeechOptions
    voice_id: str | None
    voice_language: str | None
    text: str


def complete(
    requested: RequestedSpeech, defaults: SynthesisParams, model: ModelInfo
) -> CompleteParams:
    """Take `defaults` for parameters that are absent; the voice's name may set the language.

    A language that `model` does not speak is ignored. A voice of another language than the text
    changes defaults, and is never refused.
    Raises `UnsupportedLanguage` for the language of the request or of `defaults`.
    """
    named = _language_of_name(requested, defaults, model)
    if named:
        defaults = replace(defaults, language=named)
    params = requested.options.params(defaults)
    params = replace(
        params, language=resolve_language(params.language, model.name, model.languages)
    )
    changed = _against_accent(requested, params, model)
    notices = (
        _ignored_voice(requested, model),
        _ignored_parameters(requested, model),
        named and f"spoken in {language_of(named).name}, the language of the voice",
        _less_accent(requested, params, changed),
        language_notice(requested.text, params.language, model.languages),
    )
    return CompleteParams(replace(params, **changed), "; ".join(filter(None, notices)) or None)


def _language_of_name(
    requested: RequestedSpeech, defaults: SynthesisParams, model: ModelInfo
) -> str | None:
    """The language in the name of the voice, where that changes the language of the speech."""
    chosen = getattr(requested.options, "language", None)
    named = named_language(requested.voice_id or "")
    if chosen is not None or named in (None, parse_language(defaults.language)):
        return None
    return named if model.languages.get(named or "", "") is None else None


def _against_accent(
    requested: RequestedSpeech, params: SynthesisParams, model: ModelInfo
) -> dict[str, Any]:
    """The model's defaults for a voice of another language, where they change the parameters."""
    if requested.voice_language in (None, params.language):
        return {}
    return {
        name: value
        for name, value in model.foreign_voice_defaults.items()
        if getattr(requested.options, name) is None and getattr(params, name) != value
    }


def _less_accent(
    requested: RequestedSpeech, params: SynthesisParams, changed: dict[str, Any]
) -> str | None:
    if not changed:
        return None
    spoken, written = language_of(requested.voice_language or ""), language_of(params.language)
    values = ", ".join(f"{name} is {value:g}" for name, value in changed.items())
    return f"the voice is {spoken.name}, the text {written.name}: {values}, for less accent"


def _ignored_voice(requested: RequestedSpeech, model: ModelInfo) -> str | None:
    if requested.voice_id is None or model.clones_voices:
        return None
    return f"the {model.name} voice ignores voice_id"


def _ignored_parameters(requested: RequestedSpeech, model: ModelInfo) -> str | None:
    unused = [name for name in model.unused if getattr(requested.options, name, None) is not None]
    return f"{model.name} ignores {', '.join(unused)}" if unused else None
