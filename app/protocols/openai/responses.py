"""Responses of `/v1` about models and voices."""

from typing import Literal

from pydantic import BaseModel


class Model(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class Models(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]


class ModelId(BaseModel):
    id: str


class AudioModels(BaseModel):
    models: list[ModelId]


class Voice(BaseModel):
    id: str
    name: str


class AudioVoices(BaseModel):
    voices: list[Voice]
