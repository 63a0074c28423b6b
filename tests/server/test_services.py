from app.core.model import Model, ModelInfo
from app.server.services import _prefixes


def test_workers_of_engines_with_classes_of_one_name_are_told_apart() -> None:
    names = ["turbo", "mine:Engine", "yours.engines:Engine", "nano", "theirs:Engine"]
    models = [Model(name, name, "", ModelInfo(name)) for name in names]
    assert _prefixes(models) == ["turbo.", "Engine.", "Engine-2.", "nano.", "Engine-3."]
