"""The web page's files, which need no key."""

import httpx
import pytest

from app.http.web_files import FOLDER, WEB_FILES
from tests.support.service import API_KEY


def test_web_files_are_served_with_their_media_types(stranger: httpx.Client) -> None:
    served = {
        path.name: stranger.get(f"/web/{path.name}")
        for path in FOLDER.iterdir()
        if path.name != "docs.html"
    }
    served["index.html"] = stranger.get("/")
    assert len(served) > 10
    types = {"js": "text/javascript", "css": "text/css", "html": "text/html", "svg": "image/svg"}
    for name, answer in served.items():
        assert answer.status_code == 200, name
        assert answer.headers["Content-Type"].startswith(types[name.rpartition(".")[2]])
        assert answer.content == (FOLDER / name).read_bytes()
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'; script-src 'self'" in policy
        assert "unsafe" not in policy


@pytest.mark.parametrize("path", WEB_FILES)
def test_unchanged_file_is_not_sent_again(stranger: httpx.Client, path: str) -> None:
    first = stranger.get(path)
    assert first.headers["Cache-Control"] == "no-cache"
    for tag in (first.headers["ETag"], f'"other", W/{first.headers["ETag"]}'):
        again = stranger.get(path, headers={"If-None-Match": tag})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["ETag"] == first.headers["ETag"]
    assert stranger.get(path, headers={"If-None-Match": '"other"'}).content == first.content


def test_head_has_the_headers_of_get(stranger: httpx.Client) -> None:
    head, get = stranger.head("/"), stranger.get("/")
    assert (head.status_code, head.content) == (200, b"")
    for name in ("Content-Type", "Content-Length", "ETag"):
        assert head.headers[name] == get.headers[name]


def test_other_files_are_not_served(client: httpx.Client, stranger: httpx.Client) -> None:
    for path in ("/web/", "/web/../settings.py", "/web/%2e%2e/settings.py", "/web/nothing.js"):
        assert stranger.get(path).status_code == 401
        assert client.get(path).status_code == 404
    assert stranger.post("/", params={"api_key": API_KEY}).status_code == 405


def test_docs_load_without_the_key(client: httpx.Client, stranger: httpx.Client) -> None:
    for path in ("/docs%0A", "/web/docs.html", "/openapi.json"):
        assert stranger.get(path).status_code == 401
    assert client.get("/docs%0A").status_code == client.get("/%0A").status_code == 200
    page = stranger.get("/docs")
    assert page.content == (FOLDER / "docs.html").read_bytes()
    assert "default-src 'none'; script-src 'self';" in page.headers["Content-Security-Policy"]
