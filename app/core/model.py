"""A model as the service knows it: what it can do, and where its files are."""

from typing import Any

import msgspec

from app.core.engine_config import PUBLISHED_FILES, EngineConfig, ModelFiles
from app.core.params import ENGLISH_ONLY, Languages


class ModelInfo(msgspec.Struct, frozen=True):
    """What a model can do. `name`: its id in the API.

    `aliases`: other names that requests may give. `languages`: by ISO 639-1 code; a string says why
    one of them is not offered. `tags`: sounds that it makes on command, as `[laugh]`.
    `defaults`: synthesis parameters that differ from those of `SynthesisParams`. `unused`: those
    that mean nothing to it. `foreign_voice_defaults`: further ones, where the text is in another
    language than the voice. `converts_speech`: it converts recordings to other voices.
    `compiled` and `notice` are known once it is loaded.
    """

    name: str
    clones_voices: bool = True
    compiled: bool = False
    notice: str | None = None
    aliases: tuple[str, ...] = ()
    languages: Languages = msgspec.field(default_factory=ENGLISH_ONLY.copy)
    tags: tuple[str, ...] = ()
    defaults: dict[str, Any] = {}
    unused: tuple[str, ...] = ()
    foreign_voice_defaults: dict[str, float] = {}
    converts_speech: bool = False

    @classmethod
    def of(cls, source: object, **others: Any) -> "ModelInfo":
        """From `others`, and those attributes of `source` that are named like a field."""
        found = {
            name: getattr(source, name) for name in cls.__struct_fields__ if hasattr(source, name)
        }
        return cls(**(found | others))

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases)


class SlotNeeds(msgspec.Struct, frozen=True):
    """What a worker's slots take of a GPU. `worker_mb`: device memory without any; `slot_mb`: each.

    `most`: jobs whose listeners do not run dry on an H100.
    """

    worker_mb: int
    slot_mb: int
    most: int


class Model(msgspec.Struct, frozen=True):
    """One of the models that the service runs.

    `name`: in the setting MODEL. `engine`: a name or an import path, see `engines.registry`.
    `folder`: of its weights. `info`: what is known of it before it is loaded; of an engine of the
    user's own, nothing, nor its `slot_needs`.
    """

    name: str
    engine: str
    folder: str
    info: ModelInfo
    files: ModelFiles = PUBLISHED_FILES
    slot_needs: SlotNeeds | None = None

    @property
    def label(self) -> str:
        """A short name, without the modules of an import path."""
        return self.name.rpartition(":")[2]

    def engine_config(self, config: EngineConfig) -> EngineConfig:
        """`config` for this model."""
        variant = self.name if self.engine == "chatterbox" else config.variant
        return msgspec.structs.replace(
            config, model_path=self.folder, variant=variant, files=self.files
        )
