"""`/`, `/web/…` and `/docs`: the web page, and the API's page, served without the key."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.http.web_files import WEB_FILES

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
_DOCS_POLICY = _POLICY | {
    "style-src": "'self' 'unsafe-inline'",  # Swagger UI needs both
    "img-src": "'self' data:",
}


async def _file(request: Request) -> Response:
    """Send the file of the path, or 304 if the client has this version."""
    path = request.scope["route"].path  # a path may end in a line feed, which Starlette ignores
    file, policy = WEB_FILES[path], _DOCS_POLICY if path == "/docs" else _POLICY
    headers = {
        "Cache-Control": "no-cache",  # may be stored, but must be revalidated
        "Content-Security-Policy": "; ".join(f"{kind} {source}" for kind, source in policy.items()),
        "ETag": file.etag,
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
    # A list, or weakened by a proxy:
    if file.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers=headers, media_type=file.media_type)


for _path in WEB_FILES:
    router.add_api_route(_path, _file, methods=["GET", "HEAD"], include_in_schema=False)
