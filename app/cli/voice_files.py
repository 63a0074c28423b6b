"""The files in the two folders of voices, for commands that need no server."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from app.core.errors import InvalidRequest, StartupError
from app.core.unicode import nfc
from app.settings import Settings


@dataclass(frozen=True)
class VoiceFile:
    voice_id: str
    path: Path
    size: int
    preloaded: bool


def voice_files(settings: Settings) -> list[VoiceFile]:
    """All voices by name; an uploaded one hides a preloaded one. Raises `StartupError`."""
    found = {file.voice_id: file for file in _files(settings.preloaded_voices_dir, True)}
    found |= {file.voice_id: file for file in _files(settings.voices_dir, False)}
    return [found[voice_id] for voice_id in sorted(found)]


def folders(settings: Settings) -> list[str]:
    """Both folders, with what is wrong with them."""
    from app.voices.folder import VoiceFolder

    both = [VoiceFolder(path) for path in (settings.voices_dir, settings.preloaded_voices_dir)]
    problems = [folder.problem(written=False) for folder in both]
    return [
        f"{folder.path.absolute()}{problem and f' ({problem})'}"
        for folder, problem in zip(both, problems, strict=True)
    ]


def find_voice(settings: Settings, name: str) -> VoiceFile | None:
    """The voice of that id, or the only one that has it without its ending."""
    from app.voices.snapshot import id_of

    files = {file.voice_id: file for file in voice_files(settings)}
    return files.get(id_of(name, files) or "")


def has_voice_file(settings: Settings, voice: str) -> bool:
    return bool(find_voice(settings, voice)) or Path(voice).is_file()


def find_voice_file(settings: Settings, voice: str) -> Path:
    """The file of a voice, or the file that `voice` is the path of. Raises `StartupError`."""
    if found := find_voice(settings, voice):
        return found.path
    if Path(voice).is_file():
        return Path(voice)
    folders_ = (settings.voices_dir, settings.preloaded_voices_dir)
    looked_in = " or ".join(str(folder.absolute()) for folder in folders_)
    raise StartupError(
        f"no voice {voice}: it is no file, and there is none in {looked_in}"
        + suggestion(settings, voice)
    )


def suggestion(settings: Settings, voice: str) -> str:
    """A sentence about the voices that there are; empty if there are none."""
    from app.voices.suggestions import describe_voices

    ids = [file.voice_id for file in voice_files(settings)]
    described = describe_voices(nfc(voice), ids, "chatterbox-tts voices")
    return f". {described}" if ids else ""


def _files(folder: Path, preloaded: bool) -> Iterator[VoiceFile]:
    from app.voices.folder import VoiceFolder
    from app.voices.names import validate_voice_id

    try:
        paths = [(path, os.path.getsize(path)) for path in VoiceFolder(folder).files()]
    except OSError as error:
        raise StartupError(f"cannot read {folder}: {error.strerror}") from None
    for path, size in paths:
        try:
            voice_id = validate_voice_id(os.path.basename(path))
        except InvalidRequest:
            continue
        yield VoiceFile(voice_id, Path(path), size, preloaded)
