"""`segmenter.download` from an HTTP server on loopback."""

import hashlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import BytesIO
from pathlib import Path
from threading import Thread
from zipfile import ZipFile

import pytest

from app.core.errors import StartupError
from app.model_files.segmenter import FILES, NAME, download
from app.text.languages import LANGUAGES


def archive(*names: str) -> bytes:
    content = BytesIO()
    with ZipFile(content, "w") as target:
        for name in names:
            target.writestr(name, f"content of {Path(name).name}")
    return content.getvalue()


ARCHIVE = archive("model/features.msgpack", "weights.npz", "../features.pkl")


@pytest.fixture
def server() -> Iterator[tuple[str, dict[str, bytes]]]:
    """Its address, and what it has by path."""
    contents = {"/model.zip": ARCHIVE}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = contents.get(self.path)
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}", contents
        http.shutdown()
        thread.join()


def fetch(folder: Path, server: tuple[str, dict[str, bytes]], content: bytes = ARCHIVE) -> None:
    download(folder, url=f"{server[0]}/model.zip", sha256=hashlib.sha256(content).hexdigest())


def test_the_files_that_chinese_needs_are_unpacked_once(tmp_path, server) -> None:
    fetch(tmp_path, server)
    assert {f"{NAME}/{path.name}" for path in (tmp_path / NAME).iterdir()} == {
        *LANGUAGES["zh"].files[1:]
    }
    assert (tmp_path / NAME / "weights.npz").read_text() == "content of weights.npz"
    server[1].clear()
    fetch(tmp_path, server)  # they are there


@pytest.mark.parametrize(
    ("content", "checked", "reason"),
    [
        (b"another file", ARCHIVE, "not the published file"),
        (b"no archive", b"no archive", "does not hold"),
        (archive("features.msgpack"), archive("features.msgpack"), "does not hold"),
        (None, ARCHIVE, "only Chinese needs it"),
    ],
)
def test_failure_is_one_line_and_leaves_nothing(
    tmp_path, server, content: bytes | None, checked: bytes, reason: str
) -> None:
    server[1].clear()
    if content is not None:
        server[1]["/model.zip"] = content
    with pytest.raises(StartupError, match=reason) as error:
        fetch(tmp_path, server, checked)
    assert "\n" not in str(error.value)
    assert not any((tmp_path / NAME / name).exists() for name in FILES)
