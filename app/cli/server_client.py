"""A running service as the command line uses it, over HTTP."""

from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any, Self
from urllib.parse import quote

import httpx

from app.core.errors import ServiceError, StartupError, Unauthenticated, from_code
from app.server.made_key import find_key
from app.server.sockets import url_of
from app.settings import Settings
from app.voices.snapshot import id_of

PROBE_TIMEOUT = httpx.Timeout(5.0, connect=1.0)
"""A port where nothing listens refuses at once; a busy machine takes its time to answer."""

TIMEOUT_S = 600.0
"""Without any byte: the queue and a long text before its first sound."""


class Server:
    """The service at `url`; its errors are raised as `ServiceError`.

    Without a `key`, a service on this machine gets the one that it has made for itself. `direct`:
    without a proxy, which would get the key; always so for a loopback address.
    """

    def __init__(self, url: str, key: str, *, direct: bool = False) -> None:
        given, url = url, url if "://" in url else f"http://{url}"
        self.url = url = url.rstrip("/").removesuffix("/v1")
        try:
            host, port = httpx.URL(url).host, httpx.URL(url).port
            is_here = _is_loopback(host)
            self._key = key or (find_key(port or 80) if is_here else "")
            if not host:
                raise StartupError(
                    f"--server {given!r} names no host: give a URL such as http://127.0.0.1:8000"
                )
            self._client = httpx.Client(
                base_url=url,
                auth=self._with_key,
                timeout=httpx.Timeout(TIMEOUT_S, connect=10),
                trust_env=not (direct or is_here),
                verify=url.startswith("https:"),  # loading all certificates takes long
            )
        except (httpx.InvalidURL, ValueError) as error:
            raise StartupError(f"--server {given}: {error}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._client.close()

    def health(self) -> dict[str, Any] | None:
        """What `/health` says, asked without the key; None if no service of this kind answers."""
        try:
            answer = self._client.get("/health", timeout=PROBE_TIMEOUT, auth=None).json()
        except (httpx.HTTPError, ValueError):
            return None
        known = isinstance(answer, dict) and {"status", "model", "version"} <= answer.keys()
        return answer if known else None

    @contextmanager
    def speech(self, request: dict[str, Any]) -> Iterator[httpx.Response]:
        """The response of `/tts/generate`, whose body is to be read."""
        with (
            self._errors(),
            self._client.stream("POST", "/tts/generate", json=request) as response,
        ):
            if response.is_error:
                response.read()
            yield self._checked(response)

    def voices(self, **query: str) -> list[str]:
        names: list[str] = self._call("GET", "/voices", params=query).json()
        return names

    def add_voice(self, voice_id: str, content: bytes, *, replace: bool) -> str:
        form = {"file": (voice_id, content)}
        query = {"replace": "true"} if replace else {}
        return str(self._call("POST", "/voices", files=form, params=query).json()["voice_id"])

    def rename_voice(self, voice_id: str, new_id: str) -> str:
        path = f"/voices/{quote(voice_id, safe='')}"
        return str(self._call("PATCH", path, json={"voice_id": new_id}).json()["voice_id"])

    def delete_voice(self, name: str) -> str:
        """Delete the voice of that id, or the only one that has it without its ending."""
        voice_id = id_of(name, self.voices()) or name
        self._call("DELETE", f"/voices/{quote(voice_id, safe='')}")
        return voice_id

    def _with_key(self, request: httpx.Request) -> httpx.Request:
        if self._key:
            request.headers["X-API-Key"] = self._key
        return request

    def _call(self, method: str, path: str, **options: Any) -> httpx.Response:
        with self._errors():
            return self._checked(self._client.request(method, path, **options))

    def _checked(self, response: httpx.Response) -> httpx.Response:
        if response.is_success:
            return response
        try:
            error = response.json()["error"]
            if response.status_code == Unauthenticated.status:
                reason = "refuses the key" if self._key else "needs a key"
                raise Unauthenticated(
                    f"{self.url} {reason}: set API_KEY to that of the service, in the "
                    "environment or .env"
                )
            raise from_code(error["code"], error["message"].removesuffix("."))
        except (ValueError, LookupError, TypeError, AttributeError):
            raise ServiceError(
                f"{self.url} is no Chatterbox TTS server: it answers {response.status_code}"
            ) from None

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except httpx.ConnectError as error:
            raise ServiceError(
                f"cannot reach {self.url} ({error}): is the server started, and is this its port?"
            ) from None
        except httpx.UnsupportedProtocol as error:
            raise StartupError(f"--server {self.url}: {error}") from None
        except httpx.TimeoutException:
            raise ServiceError(f"{self.url} has not answered in time") from None
        except httpx.TransportError as error:
            raise ServiceError(f"{self.url} broke off: {error}") from None


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def server_at(url: str, settings: Settings) -> Server:
    """The server at a URL, with the key of the settings."""
    return Server(url, settings.key)


def local_server(settings: Settings) -> Server:
    """The server that these settings start; it may not run."""
    return Server(url_of(settings.host, settings.port), settings.key, direct=True)
