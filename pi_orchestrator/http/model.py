"""Base models of requests and answers; each model is built on first use, so the daemon starts sooner."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, WithJsonSchema

Time = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]
"""A time in the format of `rfc3339`."""


class ApiModel(BaseModel):
    """Base of every model of an answer. Dump it with `exclude_none=True`: answers omit fields without a value."""

    model_config = ConfigDict(frozen=True, defer_build=True)


class RequestModel(BaseModel):
    """Base of every model of a request: its path, query, headers or body."""

    model_config = ConfigDict(defer_build=True)


class Message(ApiModel):
    """Confirmation of a completed write."""

    message: str
