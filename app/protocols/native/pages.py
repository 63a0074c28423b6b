"""`/` and `/web/…`: the web page, which anybody may load; what it then asks needs the key."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.http.headers import header
from app.http.web_files import DOCS, WEB_FILES, WebFile

router = APIRouter()

_POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self'",
    "connect-src": "'self'",
    "media-src": "blob:",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}
_POLICY_OF_DOCS = _POLICY | {
    "style-src": "'self' 'unsafe-inline'",  # Swagger UI has both
    "img-src": "'self' data:",
}


async def _file(request: Request) -> Response:
    return _answer(request, WEB_FILES[request.scope["path"]], _POLICY)


async def _docs(request: Request) -> Response:
    return _answer(request, DOCS, _POLICY_OF_DOCS)


def _answer(request: Request, file: WebFile, policy: dict[str, str]) -> Response:
    """The file; 304 to who has it already."""
    headers = {
        "Cache-Control": "no-cache",  # that is: kept, but asked for again by its tag
        "Content-Security-Policy": "; ".join(f"{kind} {source}" for kind, source in policy.items()),
        "ETag": file.etag,
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
    if file.etag in header(request.scope, b"if-none-match"):  # a list, or weak, made so by a proxy
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers=headers, media_type=file.media_type)


for _path in WEB_FILES:
    router.add_api_route(_path, _file, methods=["GET", "HEAD"], include_in_schema=False)
router.add_api_route("/docs", _docs, include_in_schema=False)
