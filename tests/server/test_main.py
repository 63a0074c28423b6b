"""Ports and their apps."""

import pytest

from app.http.dependencies import AppState
from app.observability.metrics import Metrics
from app.server.http_server import create_servers
from app.server.main import _bind
from app.settings import Settings
from tests.support.service import API_KEY, free_port


def settings(**values: object) -> Settings:
    return Settings(host="127.0.0.1", port=free_port(), api_key=API_KEY, **values)


@pytest.mark.parametrize("health", [False, True])
async def test_probe_app_is_served_if_it_has_a_port(health: bool) -> None:
    config = settings(port_health=free_port() if health else None)
    listeners = _bind(config)
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    assert ports == [config.port, config.port_health][: 1 + health]
    state = AppState(config, None, None, None, Metrics())
    apps = [server.config.app for server in create_servers(state)]
    assert [app.openapi_url is not None for app in apps] == [True, False][: 1 + health]
