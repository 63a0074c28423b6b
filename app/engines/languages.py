"""Check the language of a job against those that its model speaks, and against its text."""

from app.core.errors import UnsupportedLanguage
from app.core.params import ENGLISH_ONLY, Languages
from app.core.validation import shortened
from app.engines.chatterbox.variants import VARIANTS
from app.text.language_hint import other_language
from app.text.languages import name_of, parse_language


def languages_of(engine: object) -> Languages:
    """An engine that does not say which languages it speaks is taken to speak English."""
    languages: Languages = getattr(engine, "languages", ENGLISH_ONLY)
    return languages


def resolve_language(tag: str, model: str, languages: Languages) -> str:
    """The code of `tag`. Raises `UnsupportedLanguage` if `model` does not speak the language."""
    code = parse_language(tag)
    reason = languages.get(code, "")
    if reason is None:
        return code
    name = name_of(shortened(code))
    if reason:
        raise UnsupportedLanguage(
            f"The model {model} cannot speak {name}: {reason}.", param="language"
        )
    spoken = ", ".join(code for code, reason in languages.items() if reason is None)
    others = [spec.id for spec in VARIANTS.values() if code in spec.languages and spec.id != model]
    hint = f" Ask for {' or '.join(others)}, if the setting MODEL has it." if others else ""
    raise UnsupportedLanguage(
        f"The model {model} does not speak {name}, only: {spoken}.{hint}", param="language"
    )


def language_notice(text: str, language: str, languages: Languages) -> str | None:
    """Say that `text` is plainly in another language than its job's, and what to do.

    `languages`: those of the model.
    """
    other = other_language(text, language)
    if other is None:
        return None
    notice = f"the text {other.description}, but is spoken as {name_of(language)}"
    if languages.get(other.code, "") is None:
        return f"{notice}: set language to {other.code}"
    able = [spec.id for spec in VARIANTS.values() if other.code in spec.languages]
    if not able:
        return notice
    speaker = f"{' or '.join(able)} speaks {name_of(other.code)}"
    return f"{notice}: {speaker}, if the setting MODEL has it"
