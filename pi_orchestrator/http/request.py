"""Values that the server stores with a request, and the parts of a request as input for validation."""

from __future__ import annotations

import asyncio
import random
import re
import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from aiohttp import hdrs, web
from pydantic import BaseModel

from pi_orchestrator.core.errors import FieldError, InvalidRequestError
from pi_orchestrator.core.validation import parse_object
from pi_orchestrator.http.headers import REQUEST_ID

REQUEST_ID_KEY: web.RequestKey[str] = web.RequestKey("request_id", str)
SUCCESSOR_KEY: web.RequestKey[str] = web.RequestKey("successor", str)
"""The path that replaces the requested one."""
WELL_FORMED_ID = re.compile(r"[\x21-\x7e]{1,128}", re.ASCII)


class PayloadTooLargeError(InvalidRequestError):
    """A body over the limit."""

    http_status = 413


class UnsupportedMediaTypeError(InvalidRequestError):
    """A body whose media type the route does not accept."""

    http_status = 415


def request_id(headers: Mapping[str, str]) -> str:
    """The client's request id if it is well formed, else a new one."""
    for name in (REQUEST_ID, "X-Correlation-Id"):
        value = headers.get(name)
        if value and WELL_FORMED_ID.fullmatch(value):
            return value
    # Not a secret, so no system call for randomness is needed.
    return str(uuid.UUID(int=random.getrandbits(128), version=4))


async def read_body(request: web.Request, *, timeout_s: float) -> bytes:
    """The whole body; InvalidRequestError if it does not arrive in time or is corrupt."""
    try:
        async with asyncio.timeout(timeout_s):
            return await request.read()
    except TimeoutError:
        raise InvalidRequestError("the body took too long to arrive") from None
    except (web.RequestPayloadError, OSError) as error:
        # Corrupt chunks or compression, or the client has disconnected.
        raise InvalidRequestError("the body could not be read") from error


def parse_json(raw: bytes, *, max_bytes: int, max_depth: int) -> dict[str, Any]:
    """A JSON object, `{}` for no body; InvalidRequestError otherwise."""
    try:
        return parse_object(raw or b"{}", max_bytes=max_bytes, max_depth=max_depth)
    except FieldError as error:
        raise InvalidRequestError(f"the body is {error}") from None


def check_media_type(request: web.Request, media_type: str) -> None:
    """UnsupportedMediaTypeError if the request has a Content-Type other than `media_type`."""
    if hdrs.CONTENT_TYPE in request.headers and request.content_type != media_type:
        raise UnsupportedMediaTypeError(f"the body must be {media_type}")


def path_values(request: web.Request) -> dict[str, Any]:
    """The values of the path template."""
    return dict(request.match_info)


def query_values(request: web.Request) -> dict[str, Any]:
    """The query parameters; for a repeated name, the first value."""
    return dict(request.query)


def header_values(request: web.Request, model: type[BaseModel]) -> dict[str, Any]:
    """The headers that a model names, in any letter case."""
    names = [field.alias for field in model.model_fields.values() if field.alias]
    return {name: request.headers[name] for name in names if name in request.headers}


def fill_path(template: str, request: web.Request) -> str:
    """Fill a path template with the values in the path of the request."""
    return template.format_map({name: quote(value, safe=":") for name, value in request.match_info.items()})
