"""The OpenAPI 3.1 document, made from a route table."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import models_json_schema

from pi_orchestrator.core.error_codes import ErrorCode
from pi_orchestrator.http.protocols import Access, ErrorRenderer
from pi_orchestrator.http.route import BINARY, JSON, Json, Route

R = TypeVar("R", bound=Route)

_REF = "#/components/schemas/{model}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiInfo:
    """Metadata of the API; `tags` are name → description."""

    title: str
    version: str
    summary: str
    license_id: str
    tags: Mapping[str, str]


def document(routes: Sequence[R], *, info: ApiInfo, errors: ErrorRenderer, access: Access[R]) -> Json:
    """Routes → document; every route with its inputs, answers, errors and an example."""
    return _Writer(routes, info=info, errors=errors, access=access).document()


class _Writer(Generic[R]):
    """Builds one document."""

    def __init__(self, routes: Sequence[R], *, info: ApiInfo, errors: ErrorRenderer, access: Access[R]) -> None:
        self._routes = routes
        self._info = info
        self._errors = errors
        self._access = access

    def document(self) -> Json:
        info = self._info
        schemas: Json = {"Error": self._errors.schema}
        for route in self._routes:
            schemas.update(_definitions(route))
        paths: dict[str, Json] = {}
        operation_ids: set[str] = set()
        for route in self._routes:
            operation = self._operation(route)
            if operation["operationId"] in operation_ids:
                operation["operationId"] += "_" + re.sub(r"\W+", "_", route.path.strip("/"))
            operation_ids.add(operation["operationId"])
            paths.setdefault(route.path, {})[route.method.lower()] = operation
        return {
            "openapi": "3.1.0",
            "info": {
                "title": info.title,
                "version": info.version,
                "summary": info.summary,
                "license": {"name": info.license_id, "identifier": info.license_id},
            },
            "servers": [{"url": "/"}],
            "tags": [{"name": name, "description": text} for name, text in info.tags.items()],
            "paths": paths,
            "components": {
                "schemas": dict(sorted(schemas.items())),
                "securitySchemes": self._access.schemes,
            },
        }

    def _operation(self, route: R) -> Json:
        operation: Json = {
            "operationId": route.operation_id,
            "summary": route.summary,
            "description": inspect.getdoc(route.handler) or "",
            "tags": [route.tag],
            "parameters": _parameters(route),
            "responses": {**_successes(route), **self._failures(route)},
            "security": self._access.security(route),
            **({"deprecated": True} if route.successor else {}),
        }
        if route.request_media_type:
            body = route.model("body")
            schema: Json = {"$ref": _REF.format(model=body.__name__)} if body else {"type": "string"}
            is_required = body is None or any(field.is_required() for field in body.model_fields.values())
            operation["requestBody"] = {
                "required": is_required,
                "content": {route.request_media_type: {"schema": schema}},
            }
        return operation

    def _failures(self, route: R) -> Json:
        """Error answers of a route: status → codes."""
        codes = {ErrorCode.FORBIDDEN, ErrorCode.INTERNAL_ERROR, *route.errors, *self._access.errors(route)}
        if any(name in route.inputs for name in ("path", "query", "headers", "body")):
            codes |= {ErrorCode.VALIDATION_FAILED, ErrorCode.INVALID_REQUEST}
        if route.writes:
            codes |= {ErrorCode.VALIDATION_FAILED, ErrorCode.INVALID_REQUEST, ErrorCode.CONFLICT}
        by_status: dict[int, list[str]] = {}
        for code in sorted(codes):
            status, name = self._errors.describe(code)
            by_status.setdefault(status, []).append(name)
        _, invalid = self._errors.describe(ErrorCode.INVALID_REQUEST)
        by_status.setdefault(413, []).append(invalid)
        if route.request_media_type:
            by_status.setdefault(415, []).append(invalid)
        return {
            str(status): {
                "description": ", ".join(names),
                "content": {JSON: {"schema": {"$ref": _REF.format(model="Error")}}},
            }
            for status, names in sorted(by_status.items())
        }


def _definitions(route: Route) -> Json:
    schema = route.adapter.json_schema(mode="serialization", ref_template=_REF)
    definitions: Json = schema.pop("$defs", {})
    if body := route.model("body"):
        _, body_schema = models_json_schema([(body, "validation")], ref_template=_REF)
        definitions |= body_schema.get("$defs", {})
    if _is_model(route.answer):
        definitions[route.answer.__name__] = schema
    return definitions


def _parameters(route: Route) -> list[Json]:
    parameters: list[Json] = []
    for source, location in (("path", "path"), ("query", "query"), ("headers", "header")):
        model = route.model(source)
        if model is None:
            continue
        schema = model.model_json_schema(mode="validation", ref_template=_REF)
        inline = schema.get("$defs", {})
        for name, field in schema["properties"].items():
            if name == "Accept":
                continue  # OpenAPI describes this header by the content types of the answers
            described = _inlined(_without_null(field), inline)
            described.pop("title", None)
            parameters.append(
                {
                    "name": name,
                    "in": location,
                    "required": location == "path" or name in schema.get("required", ()),
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
                "description": "a repeated request with the same key gets the first answer",
                "schema": {"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[!-~]+$"},
            }
        )
    return parameters


def _successes(route: Route) -> Json:
    if route.status == 204:
        return {"204": {"description": "Done"}}
    shape = route.shape
    content_type = shape.content_type.split(";")[0]
    data: Json
    if _is_model(route.answer):
        data = {"$ref": _REF.format(model=route.answer.__name__)}
    else:
        data = TypeAdapter(route.answer).json_schema(mode="serialization", ref_template=_REF)
        data.pop("$defs", None)
    if route.streams:
        data = {"type": "string", "contentMediaType": content_type, "contentSchema": data}
    if shape.schema:
        data = shape.schema(data)
    example = shape.example(route.example) if shape.example else route.example
    content: Json = {content_type: {"schema": data, "example": example}}
    if shape is BINARY:
        raw: Json = {"schema": {"type": "string", "contentMediaType": route.produces}}
        in_json = content if _is_model(route.answer) else {}
        content = {route.produces: raw if in_json else raw | {"example": example}} | in_json
    return {
        str(status): {"description": "Not modified"}
        if status == 304
        else {"description": "OK" if status < 400 else "Not ready", "content": content}
        for status in (route.status, *route.other_statuses)
    }


def _without_null(field: Json) -> Json:
    """Remove null from an optional parameter: it can be omitted, but not null."""
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
