"""`/voices`: upload, list, rename and delete voices."""

import asyncio
from typing import Annotated

import msgspec
from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import UploadFile
from starlette.responses import Response

from app.core.errors import (
    InvalidRequest,
    InvalidVoiceId,
    NotReady,
    PayloadTooLarge,
    PreloadedVoice,
    StorageFull,
    StorageUnavailable,
    TooManyUploads,
    UnsupportedMedia,
    UnusableAudio,
    VoiceExists,
    VoiceNotFound,
)
from app.http.dependencies import READ_ERRORS, get_state, read_short_object
from app.http.form import read_upload
from app.http.openapi import error_responses, json_response, request_body
from app.http.request_body import run_while_connected
from app.http.voice_response import VoiceResponse
from app.speech.options import validated
from app.voices.names import decode_file_name, validate_voice_id
from app.voices.snapshot import VoiceSnapshot

router = APIRouter(prefix="/voices", tags=["voices"])

_FORM_SCHEMA = {
    "type": "object",
    "required": ["file"],
    "additionalProperties": False,
    "properties": {"file": {"type": "string", "format": "binary"}},
}


class Uploaded(BaseModel):
    voice_id: str
    message: str


class Deleted(BaseModel):
    message: str


class VoiceDetails(BaseModel):
    voice_id: str
    language: str | None
    preloaded: bool


class NewName(BaseModel):
    """What to change of a voice."""

    model_config = ConfigDict(extra="forbid")

    voice_id: Annotated[
        str, Field(description="The new id; the file's ending stays, and may be left out.")
    ]


class Renamed(BaseModel):
    voice_id: str
    message: str


@router.post(
    "",
    summary="Upload a voice",
    status_code=201,
    openapi_extra={"requestBody": request_body("multipart/form-data", _FORM_SCHEMA)},
    responses=json_response(
        {"voice_id": "voice.wav", "message": "Voice uploaded successfully."}, 201
    )
    | error_responses(
        *(InvalidRequest, InvalidVoiceId, VoiceExists, PayloadTooLarge, UnsupportedMedia),
        *(UnusableAudio, StorageUnavailable, StorageFull, TooManyUploads),
    ),
)
async def upload(request: Request, replace: bool = False) -> Uploaded:
    """The file name becomes the `voice_id`. `replace=true` swaps an existing one."""
    async with read_upload(request, "A voice file") as (file, _):
        voice_id = validate_voice_id(_file_name(file))
        adding = get_state(request).voices.add(voice_id, file.file, replace=replace)
        await run_while_connected(request, adding)
    return Uploaded(voice_id=voice_id, message="Voice uploaded successfully.")


@router.get(
    "",
    summary="List voices",
    response_model=list[str] | list[VoiceDetails],
    responses=json_response(["austen.wav", "voice.wav"]) | error_responses(InvalidRequest),
)
async def list_voices(
    request: Request, preloaded: bool | None = None, details: bool = False
) -> Response:
    """The ids of all available voices.

    `preloaded=true`: only preloaded ones; `false`: only uploaded ones. `details=true`: objects with
    `voice_id`, `language` (a code, or null if unknown) and `preloaded`.
    """
    voices = get_state(request).voices.snapshot
    content = await asyncio.to_thread(_list_json, voices, preloaded, details)
    return Response(content, media_type="application/json")


@router.patch(
    "/{voice_id}",
    summary="Rename a voice",
    openapi_extra={
        "requestBody": request_body(
            "application/json", NewName.model_json_schema(), rename={"voice_id": "new.wav"}
        )
    },
    responses=json_response(
        {"voice_id": "new.wav", "message": "Voice 'voice.wav' renamed to 'new.wav'."}
    )
    | error_responses(
        *(InvalidRequest, InvalidVoiceId, PreloadedVoice, VoiceNotFound, VoiceExists),
        *(NotReady, StorageUnavailable, StorageFull, *READ_ERRORS),
    ),
)
async def rename(voice_id: str, request: Request) -> Renamed:
    """Only uploaded ones; a generation that was accepted before ends with the voice it had."""
    new = validated(NewName, await read_short_object(request, '{"voice_id": "new name"}'))
    old_id, new_id = await get_state(request).voices.rename(voice_id, new.voice_id)
    return Renamed(voice_id=new_id, message=f"Voice '{old_id}' renamed to '{new_id}'.")


@router.get(
    "/{voice_id}",
    summary="Download a voice",
    response_class=Response,
    responses=error_responses(VoiceNotFound, NotReady, StorageUnavailable),
    openapi_extra={"responses": {"200": {"content": {"application/octet-stream": {}}}}},
)
async def download(voice_id: str, request: Request) -> Response:
    """The recording, as it was uploaded."""
    return VoiceResponse(await get_state(request).voices.open(voice_id))


@router.delete(
    "/{voice_id}",
    summary="Delete a voice",
    responses=json_response({"message": "Voice 'voice.wav' deleted successfully."})
    | error_responses(PreloadedVoice, VoiceNotFound, NotReady, StorageUnavailable, StorageFull),
)
async def delete(voice_id: str, request: Request) -> Deleted:
    """Only uploaded ones; a generation that was accepted before ends with the voice it had."""
    deleted = await get_state(request).voices.delete(voice_id)
    return Deleted(message=f"Voice '{deleted}' deleted successfully.")


def _list_json(voices: VoiceSnapshot, preloaded: bool | None, details: bool) -> bytes:
    lists = {None: voices.ids, True: voices.preloaded_ids, False: voices.uploaded_ids}
    ids = lists[preloaded]
    if not details:
        return msgspec.json.encode(ids)  # pydantic takes long for thousands
    known = set(voices.preloaded_ids)
    return msgspec.json.encode(
        [
            {"voice_id": each, "language": voices.language_of(each), "preloaded": each in known}
            for each in ids
        ]
    )


def _file_name(file: UploadFile) -> str:
    """Refuse `C:\\path\\voice.wav`, of which the parser keeps the last part only."""
    if "\\" in file.headers["content-disposition"].replace('\\"', '"'):
        raise InvalidVoiceId("A voice id has no backslash.", param="file")
    return decode_file_name(file.filename or "")
