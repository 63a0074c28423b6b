"""Read forms with files, also from clients that write a file's name as `filename*` only."""

import errno
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from python_multipart.exceptions import FormParserError
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from app.core.errors import InvalidRequest, PayloadTooLarge, StorageFull
from app.core.validation import shortened
from app.http.dependencies import get_state
from app.http.request_body import ensure_media_type, limit_body

MAX_FIELD_BYTES = 1024
MULTIPART_OVERHEAD_BYTES = 65_536

_PLAIN_NAME = re.compile(rb";\s*filename\s*=", re.IGNORECASE)
_EXTENDED_NAME = re.compile(rb";\s*filename\*\s*=\s*(\"?)[\w-]*'[\w-]*'", re.IGNORECASE)
_PART_OF_NAME = re.compile(
    rb";\s*filename\*[0-9]{1,3}(\*?)\s*=\s*\"?([^\";\\]*+)\"?", re.IGNORECASE
)
_CHARSET = re.compile(rb"^[\w-]*'[\w-]*'")


class _Parser(MultiPartParser):
    def on_headers_finished(self) -> None:
        part = self._current_part
        part.content_disposition = with_plain_name(part.content_disposition or b"")
        super().on_headers_finished()


def with_plain_name(disposition: bytes) -> bytes:
    """Replace `filename*` (RFC 5987) by `filename`, percent-encoded, unless that is there too.

    So are the parts of a name, `filename*0` and following (RFC 2231), in the order in which they
    come.
    """
    if _PLAIN_NAME.search(disposition):
        return disposition
    if parts := _PART_OF_NAME.findall(disposition):
        name = b"".join(_CHARSET.sub(b"", value) if encoded else value for encoded, value in parts)
        return _PART_OF_NAME.sub(b"", disposition) + b'; filename="%b"' % name
    return _EXTENDED_NAME.sub(rb"; filename=\1", disposition)


@asynccontextmanager
async def read_form(request: Request) -> AsyncIterator[FormData]:
    """Yield a form of at most one file and eight short fields. Raises InvalidRequest."""
    parser = _Parser(
        request.headers,
        request.stream(),
        max_files=1,
        max_fields=8,
        max_part_size=MAX_FIELD_BYTES,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise InvalidRequest(error.message) from None
    except (FormParserError, UnicodeError) as error:
        raise InvalidRequest(f"The body is not valid multipart/form-data: {error}.") from None
    try:
        yield form
    finally:
        await form.close()


@asynccontextmanager
async def read_upload(request: Request, what: str) -> AsyncIterator[tuple[UploadFile, FormData]]:
    """Yield the field `file` of a form, and the form, in one of the slots for uploads.

    `what`: the file, for messages. Raises `InvalidRequest`, `UnsupportedMedia`, `PayloadTooLarge`,
    `TooManyUploads`, `StorageFull`.
    """
    ensure_media_type(request, "multipart/form-data", "curl -F file=@voice.wav")
    state = get_state(request)
    too_large = PayloadTooLarge(
        f"{what} may have at most {state.settings.max_upload_mb} MB (MAX_UPLOAD_MB).", param="file"
    )
    max_bytes = state.settings.max_upload_bytes + MULTIPART_OVERHEAD_BYTES
    try:
        async with (
            state.voices.upload_slots.take(),
            read_form(limit_body(request, max_bytes, too_large)) as form,
        ):
            file = form.get("file")
            if not isinstance(file, UploadFile) or not file.filename:
                raise _no_file(form)
            yield file, form
    except OSError as error:  # from the temporary file that holds the upload
        if error.errno == errno.ENOSPC:
            raise StorageFull("There is no space left for the upload.") from None
        raise


def _no_file(form: FormData) -> InvalidRequest:
    named = [name for name, value in form.multi_items() if isinstance(value, UploadFile)]
    instead = f", not {shortened(named[0])!r}" if named and "file" not in form else ""
    return InvalidRequest(
        f"Send one file, as the multipart field 'file'{instead}, as curl -F file=@voice.wav does.",
        param="file",
    )
