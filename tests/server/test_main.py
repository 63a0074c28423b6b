"""Ports and their apps."""

import pytest

from app.server.app import create_app, create_probe_app
from app.server.main import _bind
from app.settings import Settings
from tests.support.service import API_KEY, free_port


def settings(**values: object) -> Settings:
    return Settings(host="127.0.0.1", port=free_port(), api_key=API_KEY, _env_file=None, **values)


@pytest.mark.parametrize("health", [False, True])
def test_probe_app_is_served_if_it_has_a_port(health: bool) -> None:
    config = settings(port_health=free_port() if health else None)
    bindings = _bind(config)
    try:
        found = [(listener.getsockname()[1], create) for listener, create in bindings]
    finally:
        for listener, _ in bindings:
            listener.close()
    expected = [(config.port, create_app), (config.port_health, create_probe_app)]
    assert found == expected[: 1 + health]
