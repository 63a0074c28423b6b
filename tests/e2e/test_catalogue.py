"""The fault catalogue in the README of this folder: complete, of tests that are there and run.

By `pytest`, or, those that take a minute, by a step of their own in `.ci/run`.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support.service import ROOT

README = Path(__file__).with_name("README.md")
FAULTS = 58
HEAD = ("tests", "---")
LEFT_OUT = {"skip", "skipif", "xfail", "heavy"}
RUN_BY_CI = (ROOT / ".ci" / "run").read_text()

Test = ast.FunctionDef | ast.AsyncFunctionDef


def rows() -> list[tuple[str, list[str]]]:
    """The first cell of each row of each table, and the tests in its last."""
    lines = [line for line in README.read_text().splitlines() if line.startswith("| ")]
    cells = [line.strip("| ").split(" | ") for line in lines]
    return [
        (first, re.findall(r"`([^`]+)`", last)) for first, *_, last in cells if last not in HEAD
    ]


def named() -> list[str]:
    return sorted({test for _, tests in rows() for test in tests})


@cache
def defined_in(path: str) -> dict[str, Test]:
    return {test.name: test for test in _tests(ast.parse((ROOT / path).read_text()))}


def _tests(module: ast.Module) -> Iterator[Test]:
    for each in ast.walk(module):
        if isinstance(each, Test) and each.name.startswith("test_"):
            yield each


def test_each_fault_has_one_row() -> None:
    numbers = [first for first, _ in rows() if first.isdecimal()]
    assert numbers == [str(number) for number in range(1, FAULTS + 1)]


def test_each_row_names_a_test() -> None:
    assert not [first for first, tests in rows() if not tests]


@pytest.mark.parametrize("test", named())
def test_a_named_test_is_there_and_run(test: str) -> None:
    path, _, name = test.partition("::")
    assert name in defined_in(path)
    marks = {
        part.attr if isinstance(part, ast.Attribute) else part.id
        for decorator in defined_in(path)[name].decorator_list
        for part in ast.walk(decorator)
        if isinstance(part, ast.Attribute | ast.Name)
    }
    if "heavy" in marks:
        assert f"pytest -m heavy {path}" in RUN_BY_CI
        marks.remove("heavy")
    assert not marks & LEFT_OUT
