"""Hold the files of the web page and of `/docs` in memory, by URL path."""

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
"""Only files of these types are served."""


@dataclass(frozen=True)
class WebFile:
    """`etag` includes its quotes."""

    content: bytes
    media_type: str
    etag: str


def _read(path: Path) -> WebFile:
    content = path.read_bytes()
    return WebFile(content, MEDIA_TYPES[path.suffix], f'"{hashlib.sha256(content).hexdigest()}"')


_SWAGGER_UI = Path(str(files("fastapi_offline"))) / "static"
_PAGES = ("index.html", "docs.html")

WEB_FILES = {
    "/": _read(FOLDER / "index.html"),
    "/docs": _read(FOLDER / "docs.html"),
    **{
        f"/web/{path.name}": _read(path)
        for path in (
            *(path for path in FOLDER.iterdir() if path.suffix in MEDIA_TYPES),
            *(_SWAGGER_UI / name for name in ("swagger-ui-bundle.js", "swagger-ui.css")),
        )
        if path.name not in _PAGES
    },
}
"""`/`, `/docs` and `/web/…`, served without the key."""
