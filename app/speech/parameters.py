"""Complete the parameters of a request for its model and its voice."""

from typing import NamedTuple

from msgspec.structs import replace

from app.core.model import ModelInfo
from app.core.params import SynthesisParams
from app.engines.languages import language_notice, resolve_language
from app.speech.options import SpeechOptions
from app.text.languages import language_of, parse_language
from app.voices.language import named_language


class CompleteParams(NamedTuple):
    """`notice`: tells the client what differs from its request; None if nothing does."""

    params: SynthesisParams
    notice: str | None


def complete(
    options: SpeechOptions,
    defaults: SynthesisParams,
    model: ModelInfo,
    voice_id: str | None,
    voice_language: str | None,
    text: str,
) -> CompleteParams:
    """Take `defaults` for parameters that are absent; the voice's name may set the language.

    `voice_id`: with its ending. A language that `model` does not speak is ignored. A voice of
    another language than the text changes defaults, and is never refused.
    Raises `UnsupportedLanguage` for the language of the request or of `defaults`.
    """
    named = _spoken_because_of_name(options, defaults, model, voice_id)
    if named:
        defaults = replace(defaults, language=named)
    params = options.params(defaults)
    language = resolve_language(params.language, model.name, model.languages)
    changed = _against_accent(options, params, model, voice_language, language)
    notices = _ignored(options, model, voice_id)
    if named:
        notices.append(f"spoken in {language_of(named).name}, the language of the voice")
    if changed:
        spoken, written = (language_of(code or "").name for code in (voice_language, language))
        values = ", ".join(f"{name} is {value:g}" for name, value in changed.items())
        notices.append(f"the voice is {spoken}, the text {written}: {values}, for less accent")
    if other := language_notice(text, language, model.languages):
        notices.append(other)
    return CompleteParams(replace(params, language=language, **changed), "; ".join(notices) or None)


def _spoken_because_of_name(
    options: SpeechOptions, defaults: SynthesisParams, model: ModelInfo, voice_id: str | None
) -> str | None:
    """The language in the name of the voice, where that changes the language of the speech."""
    asked, named = getattr(options, "language", None), named_language(voice_id or "")
    if asked is not None or named in (None, parse_language(defaults.language)):
        return None
    return named if model.languages.get(named or "", "") is None else None


def _against_accent(
    options: SpeechOptions,
    params: SynthesisParams,
    model: ModelInfo,
    voice_language: str | None,
    language: str,
) -> dict[str, float]:
    """The model's defaults for a voice of another language, where they change the parameters."""
    if voice_language in (None, language):
        return {}
    return {
        name: value
        for name, value in model.foreign_voice_defaults.items()
        if getattr(options, name) is None and getattr(params, name) != value
    }


def _ignored(options: SpeechOptions, model: ModelInfo, voice_id: str | None) -> list[str]:
    notices = []
    if voice_id is not None and not model.clones_voices:
        notices.append(f"the {model.name} voice ignores voice_id")
    if unused := [name for name in model.unused if getattr(options, name, None) is not None]:
        notices.append(f"{model.name} ignores {', '.join(unused)}")
    return notices
