"""`/tts/convert`: convert a recording to another voice."""

from collections.abc import Coroutine
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from starlette.datastructures import FormData, UploadFile
from starlette.responses import Response

from app.audio.formats import FormatName, new_encoder
from app.core.errors import (
    InvalidRequest,
    NotAcceptable,
    PayloadTooLarge,
    TooManyUploads,
    UnsupportedMedia,
)
from app.core.params import Seed, Speed, info_of
from app.http.audio_response import AudioResponse
from app.http.dependencies import get_state
from app.http.form import read_upload
from app.http.openapi import error_responses, request_body
from app.http.request_body import run_while_connected
from app.protocols.native.negotiation import negotiate
from app.speech.options import lower, query_value, validated
from app.speech.service import CONVERSION_ERRORS, ConversionRequest
from app.speech.stream import SpeechStream

router = APIRouter(tags=["speech"])


class ConvertRequest(BaseModel):
    """The fields of the form beside `file`."""

    model_config = ConfigDict(extra="forbid")

    voice_id: Annotated[
        str | None,
        Field(None, description="A voice that `GET /voices` lists; the default voice if absent."),
    ]
    model: Annotated[
        str | None,
        Field(None, description="A model that converts speech; the first of them if absent."),
    ]
    format: Annotated[
        FormatName | None,
        BeforeValidator(lower),
        Field(None, description="The audio format; overrides the `Accept` header."),
    ]
    seed: Annotated[Seed | None, Field(None, description="The same seed gives the same audio.")]
    speed: Annotated[Speed, Field(1.0, description=info_of("speed").description)]
    stream: Annotated[bool, Field(True, description="False: the whole file at once.")]


def _without_null(field: dict[str, Any]) -> dict[str, Any]:
    """The schema of an optional field: a form has no null."""
    own = {name: value for name, value in field.items() if value is not None}
    kinds: list[dict[str, Any]] = own.pop("anyOf", [{}])
    return own | kinds[0]


_NOT_TEXT = ("seed", "speed", "stream")

_FIELDS = ConvertRequest.model_json_schema()["properties"]
_FORM_SCHEMA = {
    "type": "object",
    "required": ["file"],
    "additionalProperties": False,
    "properties": {
        "file": {"type": "string", "format": "binary"},
        **{name: _without_null(field) for name, field in _FIELDS.items()},
    },
}


@router.post(
    "/tts/convert",
    summary="Convert a recording to another voice",
    openapi_extra={"requestBody": request_body("multipart/form-data", _FORM_SCHEMA)},
    response_class=Response,
    responses=error_responses(
        *CONVERSION_ERRORS, NotAcceptable, PayloadTooLarge, UnsupportedMedia, TooManyUploads
    ),
)
async def convert(request: Request) -> Response:
    """The same words, in the voice of `voice_id`; `file` has up to 5 minutes of speech."""
    stream: SpeechStream | None = None
    try:
        async with read_upload(request, "A recording") as (file, form):
            fields, starting = _start(request, file, form)
            stream = await run_while_connected(request, starting)
    except BaseException:
        if stream:  # the connection ended after the job began
            stream.close()
        raise
    return AudioResponse(stream, buffered=not fields.stream)


def _start(
    request: Request, file: UploadFile, form: FormData
) -> tuple[ConvertRequest, Coroutine[Any, Any, SpeechStream]]:
    """Raises `InvalidRequest`, `NotAcceptable`."""
    fields = validated(ConvertRequest, _values(form))
    name = fields.format or negotiate(request.headers.get("accept", ""))
    starting = get_state(request).speech.convert(
        ConversionRequest(
            request.state.request_id,
            file.file,
            fields.voice_id,
            partial(new_encoder, name, fields.speed),
            fields.model,
            fields.seed,
            fields.speed,
        )
    )
    return fields, starting


def _values(form: FormData) -> dict[str, Any]:
    """The fields with their types. Raises `InvalidRequest` if one is given twice."""
    values: dict[str, Any] = {}
    for name, value in form.multi_items():
        if name in values:
            raise InvalidRequest(f"{name!r} is given twice.", param=name)
        values[name] = query_value(name, str(value)) if name in _NOT_TEXT else value
    del values["file"]
    return values
