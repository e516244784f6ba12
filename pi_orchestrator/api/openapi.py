"""The OpenAPI 3.1 document, made from the route table once and served as bytes."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable
from functools import cache
from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import models_json_schema

from pi_orchestrator import __version__
from pi_orchestrator.api.auth import COOKIE, KEY_HEADER, KEY_QUERY
from pi_orchestrator.api.envelope import CONTENT_TYPES, HTTP_STATUS, Shape
from pi_orchestrator.api.route import Reply, Route

Json = dict[str, Any]

_REF = "#/components/schemas/{model}"
_TAGS = {
    "health": "Is it there, and how does it do",
    "onboarding": "Auto-onboarding: toggle, limits, audit trail",
    "allowlist": "Which cameras may be provisioned",
    "provisioning": "Cameras given the credentials of their network, many at once",
    "cameras": "Cameras, live and registered",
    "captures": "Pictures, reboots and other commands",
    "containers": "Containers of four cameras, and who stands where",
    "pairing": "Cameras put on the record, taken off it and replaced by hand",
    "discovery": "Who is on the camera network, and why that is believed",
    "network": "The network around: broker, gateway, WiFi",
    "dashboard": "Old paths that dashboards still call",
    "streams": "What happens, as it happens",
    "system": "The machine that the daemon runs on, and what the daemon says of itself",
    "keys": "Who may do what",
    "config": "What is configured, and what of it can change while the daemon runs",
}
_ERROR: Json = {
    "type": "object",
    "required": ["success", "error", "code", "correlation_id", "timestamp"],
    "properties": {
        "success": {"const": False},
        "error": {
            "type": "object",
            "required": ["code", "message", "retryable"],
            "properties": {
                "code": {"type": "string"},
                "message": {"type": "string"},
                "retryable": {"type": "boolean"},
                "retry_after_seconds": {"type": "integer"},
                "details": {"type": "string"},
            },
        },
        "code": {"type": "string", "description": "the same as error.code"},
        "correlation_id": {"type": "string"},
        "timestamp": {"type": "string", "format": "date-time"},
    },
}


async def document() -> Reply[dict[str, Any]]:
    """The OpenAPI document of this daemon."""
    return Reply(encoded=_encoded())


@cache
def _encoded() -> bytes:
    from pi_orchestrator.api.routes import ROUTES  # noqa: PLC0415  # the table lists this very route

    return json.dumps(build(ROUTES), separators=(",", ":"), ensure_ascii=False).encode()


def build(routes: Iterable[Route]) -> Json:
    """Routes → document; every route with its inputs, answers, errors and an example."""
    table = list(routes)
    schemas: Json = {"Error": _ERROR}
    for route in table:
        schemas.update(_definitions(route))
    paths: dict[str, Json] = {}
    seen: set[str] = set()
    for route in table:
        operation = _operation(route)
        if operation["operationId"] in seen:
            operation["operationId"] += "_" + re.sub(r"\W+", "_", route.path.strip("/"))
        seen.add(operation["operationId"])
        paths.setdefault(route.path, {})[route.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Pi Orchestrator",
            "version": __version__,
            "summary": "Edge daemon for ESP32 cameras behind a Raspberry Pi",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": KEY_HEADER},
                "session": {"type": "apiKey", "in": "cookie", "name": COOKIE},
                "link": {"type": "apiKey", "in": "query", "name": KEY_QUERY},
            },
        },
    }


def _definitions(route: Route) -> Json:
    schema = route.adapter.json_schema(mode="serialization", ref_template=_REF)
    found: Json = schema.pop("$defs", {})
    if body := route.model("body"):
        _, definitions = models_json_schema([(body, "validation")], ref_template=_REF)
        found |= definitions.get("$defs", {})
    if _is_model(route.answer):
        found[route.answer.__name__] = schema
    return found


def _operation(route: Route) -> Json:
    operation: Json = {
        "operationId": route.operation_id,
        "summary": route.summary,
        "description": inspect.getdoc(route.handler) or "",
        "tags": [route.tag],
        "parameters": _parameters(route),
        "responses": {**_successes(route), **_failures(route)},
        "security": _security(route),
        **({"deprecated": True} if route.successor else {}),
    }
    if route.media_type:
        body = route.model("body")
        schema: Json = {"$ref": _REF.format(model=body.__name__)} if body else {"type": "string"}
        needed = body is None or any(field.is_required() for field in body.model_fields.values())
        operation["requestBody"] = {"required": needed, "content": {route.media_type: {"schema": schema}}}
    return operation


def _parameters(route: Route) -> list[Json]:
    parameters: list[Json] = []
    for source, place in (("path", "path"), ("query", "query"), ("headers", "header")):
        model = route.model(source)
        if model is None:
            continue
        schema = model.model_json_schema(mode="validation", ref_template=_REF)
        inline = schema.get("$defs", {})
        for name, field in schema["properties"].items():
            if name == "Accept":
                continue  # OpenAPI has the kinds of answers for that
            described = _inlined(_without_null(field), inline)
            described.pop("title", None)
            parameters.append(
                {
                    "name": name,
                    "in": place,
                    "required": place == "path" or name in schema.get("required", ()),
                    "description": described.pop("description", ""),
                    "schema": described,
                }
            )
    if route.writes:
        parameters.append(
            {
                "name": "Idempotency-Key",
                "in": "header",
                "required": False,
                "description": "a repeat with the same key gets the first answer",
                "schema": {"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[!-~]+$"},
            }
        )
    return parameters


def _successes(route: Route) -> Json:
    if route.status == 204:
        return {"204": {"description": "Done"}}
    content_type = CONTENT_TYPES.get(route.shape, "application/json").split(";")[0]
    data: Json
    if _is_model(route.answer):
        data = {"$ref": _REF.format(model=route.answer.__name__)}
    else:
        data = TypeAdapter(route.answer).json_schema(mode="serialization", ref_template=_REF)
        data.pop("$defs", None)
    if route.streams:
        data = {"type": "string", "contentMediaType": content_type, "contentSchema": data}
    example = route.example
    if route.shape in (Shape.ENVELOPE, Shape.DOUBLED):
        data = _enveloped(data, doubled=route.shape is Shape.DOUBLED)
        example = {
            "success": True,
            "data": example,
            "correlation_id": "0b6f3f6e-6f0a-4f43-9a57-0a9d3f6f1c11",
            "timestamp": "2026-01-22T15:00:00.000000Z",
            **(example if route.shape is Shape.DOUBLED else {}),
        }
    content: Json = {content_type: {"schema": data, "example": example}}
    if route.shape is Shape.BINARY:
        raw: Json = {"schema": {"type": "string", "contentMediaType": route.produces}}
        in_json = content if _is_model(route.answer) else {}
        content = {route.produces: raw if in_json else raw | {"example": example}} | in_json
    return {
        str(status): {"description": "Not modified"}
        if status == 304
        else {"description": "OK" if status < 400 else "Not ready", "content": content}
        for status in (route.status, *route.also)
    }


def _enveloped(data: Json, *, doubled: bool) -> Json:
    envelope: Json = {
        "type": "object",
        "required": ["success", "data", "correlation_id", "timestamp"],
        "properties": {
            "success": {"const": True},
            "data": data,
            "correlation_id": {"type": "string"},
            "timestamp": {"type": "string", "format": "date-time"},
        },
    }
    return {"allOf": [envelope, data]} if doubled else envelope


def _failures(route: Route) -> Json:
    """Every code that the route may answer with, by status."""
    codes = {"FORBIDDEN", "INTERNAL_ERROR", *route.errors}
    if route.scope is not None:
        codes |= {"UNAUTHORIZED", "RATE_LIMITED", "DATABASE_ERROR"}
    if any(name in route.inputs for name in ("path", "query", "headers", "body")):
        codes |= {"VALIDATION_FAILED", "INVALID_REQUEST"}
    if route.writes:
        codes |= {"VALIDATION_FAILED", "INVALID_REQUEST", "CONFLICT"}
    by_status: dict[int, list[str]] = {}
    for code in sorted(codes):
        by_status.setdefault(HTTP_STATUS[code], []).append(code)
    by_status.setdefault(413, []).append("INVALID_REQUEST")
    if route.media_type:
        by_status.setdefault(415, []).append("INVALID_REQUEST")
    return {
        str(status): {
            "description": ", ".join(names),
            "content": {"application/json": {"schema": {"$ref": _REF.format(model="Error")}}},
        }
        for status, names in sorted(by_status.items())
    }


def _security(route: Route) -> list[Json]:
    if route.scope is None:
        return []
    ways: list[Json] = [{"key": []}] if route.writes else [{"key": []}, {"session": []}]
    if route.streams:
        ways.append({"link": []})
    return ways if route.keyed else [{}, *ways]


def _without_null(field: Json) -> Json:
    """An optional query parameter is left out, not null."""
    options = [option for option in field.get("anyOf", []) if option != {"type": "null"}]
    if "anyOf" in field and len(options) == 1:
        field = {key: value for key, value in field.items() if key != "anyOf"} | options[0]
    if field.get("default", 0) is None:
        del field["default"]
    return field


def _inlined(field: Json, definitions: Json) -> Json:
    reference = field.pop("$ref", None)
    return field | definitions[reference.rsplit("/", 1)[-1]] if reference else field


def _is_model(answer: object) -> bool:
    return isinstance(answer, type) and issubclass(answer, BaseModel)
