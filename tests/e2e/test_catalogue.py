"""Each row of the tables in this folder's README has a test that runs.

Tests name their rows by markers, `fault(number)` and `covers(name)`. Heavy tests count if
`.ci/nightly` runs their file.
"""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.support.service import ROOT

ROW = re.compile(r"^\| ([^|]+?) \| [^|]+ \|$", re.MULTILINE)
HEADERS = ("number", "name", "---")
NOT_RUN = {"skip", "skipif", "xfail"}
NIGHTLY = (ROOT / ".ci" / "nightly").read_text()


def rows() -> list[str]:
    """Return the first cell of each row: numbers of faults and names of guarantees."""
    readme = Path(__file__).with_name("README.md").read_text()
    return [cell for cell in ROW.findall(readme) if cell not in HEADERS]


def markers(test: ast.FunctionDef | ast.AsyncFunctionDef) -> dict[str, set[str]]:
    """Return the arguments of each `pytest.mark` of a test, by the marker's name."""
    found: dict[str, set[str]] = defaultdict(set)
    for decorator in test.decorator_list:
        name, _, arguments = ast.unparse(decorator).partition("(")
        if name in ("pytest.mark.fault", "pytest.mark.covers"):
            values = ast.literal_eval(f"({arguments.removesuffix(')')},)")
            found[name.rpartition(".")[2]] |= set(map(str, values))
        elif name.startswith("pytest.mark."):
            found[name.rpartition(".")[2]] |= set()
    return found


def marked_tests() -> Iterator[tuple[str, str, dict[str, set[str]]]]:
    """Yield file, name and markers of each test that shows a row."""
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                marks = markers(node)
                if marks.keys() & {"fault", "covers"}:
                    yield str(path.relative_to(ROOT)), node.name, marks


@cache
def shown() -> set[str]:
    return {
        row for _, _, marks in marked_tests() for name in ("fault", "covers") for row in marks[name]
    }


def test_each_fault_has_one_row() -> None:
    numbers = [int(row) for row in rows() if row.isdecimal()]
    assert numbers == sorted(set(numbers))


def test_each_row_has_a_test_and_each_marker_a_row() -> None:
    assert shown() == set(rows())


def test_marked_tests_run() -> None:
    for path, name, marks in marked_tests():
        assert name.startswith("test_"), name
        assert not marks.keys() & NOT_RUN, name
        assert "heavy" not in marks or f"pytest -m heavy {path}" in NIGHTLY, name
