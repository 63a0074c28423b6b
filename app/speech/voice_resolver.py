"""What clients of OpenAI's API may call a voice. Called by the `/v1` routes."""

from collections import Counter
from collections.abc import Mapping

from app.voices.library import VoiceLibrary
from app.voices.names import nfc

OPENAI_VOICES = (
    *("alloy", "ash", "ballad", "coral", "echo", "fable", "onyx", "nova", "sage", "shimmer"),
    *("verse", "marin", "cedar"),
)


def voice_id_of(name: str, voices: VoiceLibrary, aliases: Mapping[str, str]) -> str | None:
    """The id of the voice of that name, None for the default voice.

    A voice's own name counts before an alias, an alias before OpenAI's meaning. What is no name
    at all is returned as it is: there is no voice of that id. Raises `VoiceNotFound` for an alias
    whose voice is not there.
    """
    name = nfc(name.strip())  # a list that was typed into SillyTavern is cut at its commas
    if voice_id := voices.find(name):
        return voice_id
    if voice := aliases.get(name):
        if voice_id := voices.find(voice):
            return voice_id
        raise voices.not_found(voice, alias=name)
    return None if name in OPENAI_VOICES else name


def listed_names(voices: VoiceLibrary, aliases: Mapping[str, str]) -> dict[str, str]:
    """What may be asked for, and what to show for it: voices, aliases, a name of the default."""
    ids = voices.ids()
    stems = Counter(map(_stem, ids))
    names = {
        voice_id: voice_id if stems[_stem(voice_id)] > 1 else _stem(voice_id) for voice_id in ids
    }
    for alias, voice in aliases.items():
        if voices.find(voice) and not voices.find(alias):
            names[alias] = f"{alias} ({voice})"
    for name in OPENAI_VOICES:
        if name not in aliases and not voices.find(name):
            return names | {name: f"{name} (default voice)"}
    return names


def _stem(voice_id: str) -> str:
    return voice_id.rpartition(".")[0]
