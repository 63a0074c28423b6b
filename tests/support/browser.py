"""A page of a real browser, and a web site of another origin."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from playwright.async_api import ConsoleMessage, Page

from tests.support.manual import blocks

_FETCH = """async ([url, options]) => {
    const answer = await fetch(url, options);
    const body = new Uint8Array(await answer.arrayBuffer());
    return [answer.status, Object.fromEntries(answer.headers), Array.from(body)];
}"""


def html_in_readme(*, uses_mse: bool) -> str:
    """The documented page for Media Source Extensions, or else the plain `<audio>` tag."""
    [html] = [html for html in blocks("html") if ("MediaSource" in html) == uses_mse]
    return html


class Site:
    """Serves the current `html` at every path."""

    def __init__(self, port: int) -> None:
        self.origin = f"http://127.0.0.1:{port}"
        self.html = ""

    @classmethod
    @contextmanager
    def running(cls) -> "Iterator[Site]":
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = site.html.encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            site = cls(server.server_port)
            Thread(target=server.serve_forever, name="site", daemon=True).start()
            try:
                yield site
            finally:
                server.shutdown()


class Watched:
    """A page with its requested URLs and its console errors and warnings.

    `complaints` leaves out those that contain one of `tolerated`.
    """

    def __init__(self, page: Page) -> None:
        self.page = page
        self.requested: list[str] = []
        self.complaints: list[str] = []
        self.tolerated: tuple[str, ...] = ()
        page.on("request", lambda request: self.requested.append(request.url))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", self._console)

    def _console(self, message: ConsoleMessage) -> None:
        tolerated = any(text in message.text for text in self.tolerated)
        if message.type in ("error", "warning") and not tolerated:
            self.complaints.append(message.text)


class Tab(Watched):
    """A page of the site."""

    def __init__(self, page: Page, site: Site) -> None:
        super().__init__(page)
        self.origin = site.origin
        self._site = site

    async def show(self, html: str) -> None:
        self._site.html = html
        await self.page.goto(self._site.origin)

    async def fetch(self, url: str, **options: Any) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body, as far as the page may see them.

        Raises Playwright's `Error` where `fetch` rejects.
        """
        status, headers, body = await self.page.evaluate(_FETCH, [url, options])
        return status, headers, bytes(body)
