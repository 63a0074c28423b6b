"""Resolve the voice names of OpenAI's API: ids without extension, aliases, OpenAI's own names."""

from collections import Counter
from collections.abc import Mapping

from app.core.unicode import nfc
from app.voices.library import VoiceLibrary
from app.voices.names import MAX_NAME_LENGTH
from app.voices.snapshot import VoiceSnapshot, stem_of

OPENAI_VOICES = (
    *("alloy", "ash", "ballad", "coral", "echo", "fable", "onyx", "nova", "sage", "shimmer"),
    *("verse", "marin", "cedar"),
)


def resolve_voice(name: str, voices: VoiceLibrary, aliases: Mapping[str, str]) -> str | None:
    """Return a voice id, or None for the default voice.

    Voices take precedence over aliases, aliases over OpenAI's names. An unknown name is returned
    as it is, to be refused as a voice id. Raises `VoiceNotFound` for an alias whose voice does
    not exist.
    """
    if len(name) > MAX_NAME_LENGTH:
        return name
    name = nfc(name.strip())  # SillyTavern splits its list of voices at commas
    if voice_id := voices.find(name):
        return voice_id
    if voice := aliases.get(name):
        if voice_id := voices.find(voice):
            return voice_id
        voices.ensure_read(voice)
        raise voices.not_found(voice, alias=name)
    voices.ensure_read(name)
    return None if name in OPENAI_VOICES else name


def listed_names(voices: VoiceSnapshot, aliases: Mapping[str, str]) -> dict[str, str]:
    """Return names to request with names to display: voices, aliases, one for the default voice."""
    stems = Counter(map(stem_of, voices.ids))
    names = {
        voice_id: voice_id if stems[stem_of(voice_id)] > 1 else stem_of(voice_id)
        for voice_id in voices.ids
    }
    for alias, voice in aliases.items():
        if voices.find(voice) and not voices.find(alias):
            names[alias] = f"{alias} ({voice})"
    for name in OPENAI_VOICES:
        if name not in aliases and not voices.find(name):
            return names | {name: f"{name} (default voice)"}
    return names
