"""The voices at one moment, indexed for look-ups."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from operator import itemgetter
from typing import NamedTuple

from app.core.unicode import nfc
from app.voices.folder import Signature
from app.voices.language import language_of_voice
from app.voices.names import MAX_NAME_LENGTH


class FileVersion(NamedTuple):
    """A version of a file that was read; its digest is None if it cannot be a voice."""

    signature: Signature
    digest: str | None


@dataclass(frozen=True, eq=False)
class VoiceSnapshot:
    """Not to be changed. `digests`: by id. `digests_in_use`: also those of hidden voices.

    `ids`: sorted; so are `preloaded_ids` and `uploaded_ids`. `ids_by_stem`: ids by their names
    without ending, except where two have the same.
    """

    digests: dict[str, str] = field(default_factory=dict)
    digests_in_use: frozenset[str] = frozenset()
    ids: list[str] = field(default_factory=list)
    preloaded_ids: list[str] = field(default_factory=list)
    uploaded_ids: list[str] = field(default_factory=list)
    ids_by_stem: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, versions: Iterable[tuple[str, FileVersion]], uploads: str) -> "VoiceSnapshot":
        """`uploads`: the folder whose files hide those of the same id in other folders."""
        files = ((*os.path.split(path), version.digest) for path, version in versions)
        # Later ones have precedence: the user's, and of two Unicode forms of a name the NFC one.
        ordered = sorted(
            ((folder == uploads, name, digest) for folder, name, digest in files),
            key=itemgetter(0, 1),
        )
        digests = {nfc(name): digest for _, name, digest in ordered if digest}
        uploaded = {nfc(name) for is_upload, name, _ in ordered if is_upload}
        ids = sorted(digests)
        stems = [stem_of(voice_id) for voice_id in ids]
        by_stem = dict(zip(stems, ids, strict=True))
        if len(by_stem) < len(ids):
            seen: set[str] = set()
            for stem in stems:
                if stem in seen:
                    by_stem.pop(stem, None)
                seen.add(stem)
        return cls(
            digests,
            frozenset(digest for _, _, digest in ordered if digest),
            ids,
            [voice_id for voice_id in ids if voice_id not in uploaded],
            [voice_id for voice_id in ids if voice_id in uploaded],
            by_stem,
        )

    def find(self, name: str) -> str | None:
        """The id that equals `name`, or the only id that equals it without its ending."""
        if len(name) > MAX_NAME_LENGTH:
            return None
        name = nfc(name)
        return name if name in self.digests else self.ids_by_stem.get(name)

    def language_of(self, voice_id: str) -> str | None:
        """The code of the voice's language, or None if it is unknown."""
        return language_of_voice(voice_id, self.digests[voice_id])


def stem_of(voice_id: str) -> str:
    """The id without its ending."""
    return voice_id.rpartition(".")[0]


def id_of(name: str, ids: Iterable[str]) -> str | None:
    """The id that equals `name`, or the only id that equals it without its ending."""
    name = nfc(name)
    if name in (ids := list(ids)):
        return name
    alike = [voice_id for voice_id in ids if stem_of(voice_id) == name]
    return alike[0] if len(alike) == 1 else None
