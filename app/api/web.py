"""The web page's files and those of `/docs`, in memory with their types and tags, by their URL."""

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "web"

MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""What a page is made of; nothing else in the folder is served."""


@dataclass(frozen=True)
class WebFile:
    """`etag`, with its quotes, changes when the content does."""

    content: bytes
    media_type: str
    etag: str


def _read(path: Path) -> WebFile:
    content = path.read_bytes()
    return WebFile(content, MEDIA_TYPES[path.suffix], f'"{hashlib.sha256(content).hexdigest()}"')


def _swagger_ui(name: str) -> Path:
    return Path(str(files("fastapi_offline"))) / "static" / name


ICON = "web/icon.svg"
DOCS_SCRIPT, DOCS_STYLE = "web/swagger-ui-bundle.js", "web/swagger-ui.css"
"""Of `/docs`, which so asks no other host."""

WEB_FILES = {
    "/": _read(FOLDER / "index.html"),
    **{f"/{path}": _read(_swagger_ui(Path(path).name)) for path in (DOCS_SCRIPT, DOCS_STYLE)},
    **{
        f"/web/{path.name}": _read(path)
        for path in FOLDER.iterdir()
        if path.suffix in MEDIA_TYPES and path.name != "index.html"
    },
}
"""`/` and `/web/…`: what anybody may load; what it then asks needs the key."""
