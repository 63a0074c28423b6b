"""The web page, and Media Source Extensions, in Firefox, driven by its Marionette protocol.

Needs Debian's `firefox-esr` and `pulseaudio`, which gives it a sound card.
"""

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing
from time import monotonic, sleep
from typing import Any

import pytest

from app.audio.formats import FORMATS
from tests.support.media import seconds_of
from tests.support.service import API_KEY, Service, free_port

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(
        not (shutil.which("firefox-esr") and shutil.which("pulseaudio")),
        reason="no firefox-esr and pulseaudio on this machine",
    ),
]

TEXT = "Hello from Firefox."
PULSEAUDIO = (
    *("pulseaudio", "-n", "--exit-idle-time=-1"),
    *("-L", "module-null-sink", "-L", "module-native-protocol-unix"),
)
MIME_TYPES = {"fmp4": 'audio/mp4; codecs="mp4a.40.2"', "webm": 'audio/webm; codecs="opus"'}

HELPERS = """
    window.troubles = [];
    addEventListener("unhandledrejection", event => troubles.push(String(event.reason)));
    addEventListener("error", event => troubles.push(event.message));
    window.pause = ms => new Promise(done => setTimeout(done, ms));
    window.until = async condition => {
        for (let tries = 0; tries < 200 && !condition(); tries++) await pause(100);
    };
    window.element = id => document.getElementById(id);
    window.choose = (text, format) => {
        element("text").value = text;
        element("format").value = format;
        element("format").dispatchEvent(new Event("change", { bubbles: true }));
        element("speak").click();
    };
"""
ENTER_KEY = """
    element("key").value = key;
    element("key").form.requestSubmit();
    await until(() => document.querySelectorAll("#parameters label").length);
    for (const folded of document.querySelectorAll("details")) folded.open = true;
"""
SPEAK = """
    choose(text, format);
    await until(() => element("state").innerText === "Done.");
    await pause(300);
    return [element("state").innerText, element("failure").innerText, troubles];
"""
STOP = """
    choose(text, format);
    await until(() => element("figures").innerText.match(/First sound\\s+\\d/));
    element("stop").click();
    await pause(300);
    return [element("state").innerText, element("failure").innerText, troubles];
"""
PLAY_BY_MSE = """
    const source = new MediaSource();
    const audio = new Audio(URL.createObjectURL(source));
    await new Promise(done => source.addEventListener("sourceopen", done, { once: true }));
    const buffer = source.addSourceBuffer(type);
    const reader = (await fetch(url)).body.getReader();
    audio.play();
    for (let piece; !(piece = await reader.read()).done; ) {
        buffer.appendBuffer(piece.value);
        await new Promise(done => buffer.addEventListener("updateend", done, { once: true }));
    }
    source.endOfStream();
    await until(() => audio.ended);
    return [audio.ended, audio.currentTime];
"""
DURATION = """
    const answer = await fetch(url);
    const audio = new Audio(URL.createObjectURL(await answer.blob()));
    await new Promise(done => audio.addEventListener("loadedmetadata", done, { once: true }));
    return audio.duration;
"""


class Firefox:
    """A page. Marionette's messages are `length:[type, id, command, parameters]`."""

    def __init__(self, port: int) -> None:
        self._connection = self._connect(port)
        self._read()  # its greeting
        self._call("WebDriver:NewSession")
        self._call("WebDriver:SetTimeouts", script=60_000)

    def _connect(self, port: int) -> socket.socket:
        deadline = monotonic() + 60
        while True:
            try:
                return socket.create_connection(("127.0.0.1", port), timeout=90)
            except ConnectionRefusedError:
                assert monotonic() < deadline
                sleep(0.2)

    def _read(self) -> Any:
        length = b""
        while not length.endswith(b":"):
            length += self._connection.recv(1)
        message = b""
        while len(message) < int(length[:-1]):
            message += self._connection.recv(65_536)
        return json.loads(message)

    def _call(self, command: str, **parameters: Any) -> Any:
        message = json.dumps([0, 1, command, parameters]).encode()
        self._connection.sendall(b"%d:%b" % (len(message), message))
        _, _, error, result = self._read()
        assert error is None, error
        return result

    def close(self) -> None:
        self._connection.close()

    def open(self, url: str) -> None:
        self._call("WebDriver:Navigate", url=url)
        self.run(HELPERS)

    def run(self, code: str, **values: Any) -> Any:
        """Return what the code returns, which may `await`; `values` are its variables."""
        names = "".join(f"const {name} = {json.dumps(value)};" for name, value in values.items())
        script = f"const done = arguments[0]; (async () => {{ {names} {code} }})().then(done);"
        return self._call("WebDriver:ExecuteAsyncScript", script=script, args=[])["value"]


@pytest.fixture(scope="module")
def firefox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Firefox]:
    folder, port = tmp_path_factory.mktemp("firefox"), free_port()
    (folder / "user.js").write_text(
        f'user_pref("marionette.port", {port}); user_pref("media.autoplay.default", 0);'
    )
    environment = os.environ | {"XDG_RUNTIME_DIR": str(folder), "HOME": str(folder)}
    firefox = ("firefox-esr", "--headless", "--marionette", "--profile", str(folder))
    with ExitStack() as processes:
        for command in (PULSEAUDIO, firefox):
            process = processes.enter_context(
                subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
            )
            processes.callback(process.terminate)
        yield processes.enter_context(closing(Firefox(port)))


@pytest.fixture
def page(firefox: Firefox, preview: Service) -> Firefox:
    firefox.open(preview.url)
    firefox.run(ENTER_KEY, key=API_KEY)
    return firefox


def url_of(service: Service, format: str, stream: str = "true") -> str:
    query = f"text={TEXT.replace(' ', '+')}&seed=7&format={format}&stream={stream}"
    return f"{service.url}/tts/generate?{query}&api_key={API_KEY}"


def seconds_in(service: Service) -> float:
    with service.client() as client:
        return seconds_of(client.get(url_of(service, "wav")).content)


@pytest.mark.parametrize("format", FORMATS)
def test_page_plays_each_format_to_its_end(page: Firefox, format: str) -> None:
    assert page.run(SPEAK, text=TEXT, format=format) == ["Done.", "", []]


@pytest.mark.parametrize("format", ["wav", "raw_pcm", "fmp4"])
def test_page_stops_speech_while_it_plays(page: Firefox, format: str) -> None:
    assert page.run(STOP, text=f"{TEXT} " * 30, format=format) == ["Stopped.", "", []]


@pytest.mark.parametrize("format", MIME_TYPES)
def test_media_source_plays_to_the_end(page: Firefox, preview: Service, format: str) -> None:
    url, media_type = url_of(preview, format), MIME_TYPES[format]
    ended, seconds = page.run(PLAY_BY_MSE, url=url, type=media_type)
    assert ended
    assert seconds == pytest.approx(seconds_in(preview), abs=0.15)


@pytest.mark.parametrize("format", ["wav", "mp3", "fmp4", "webm"])
def test_file_has_its_true_duration(page: Firefox, preview: Service, format: str) -> None:
    seconds = page.run(DURATION, url=url_of(preview, format, "false"))
    assert seconds == pytest.approx(seconds_in(preview), abs=0.01)
