import os

import pytest

from app.bench.speed.process import process
from app.errors import EngineFailed, StartupError


def die() -> None:
    os._exit(1)


def refuse() -> None:
    raise StartupError("there is no model")


def test_it_is_another_process_with_its_own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", "secret")
    monkeypatch.setenv("MKL_CBWR", "none")
    with process(MKL_CBWR="AUTO") as run:
        assert run(os.getpid) != os.getpid()
        assert run(os.getenv, "MKL_CBWR") == "AUTO"
        assert run(os.getenv, "API_KEY") is None
    assert os.getenv("API_KEY") == "secret"
    assert os.getenv("MKL_CBWR") == "none"


def test_an_error_arrives_as_it_is_and_the_process_goes_on() -> None:
    with process() as run:
        with pytest.raises(StartupError, match="there is no model"):
            run(refuse)
        assert run(int, "7") == 7


def test_a_process_that_dies_is_an_error() -> None:
    with process() as run, pytest.raises(EngineFailed, match=r"test_process\.die"):
        run(die)
