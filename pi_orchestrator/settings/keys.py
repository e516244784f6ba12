"""Every key as it is shown to people and set by them: a text, its kind and its limits, all taken from the model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Any, Literal

from pydantic import BaseModel, SecretStr, ValidationError

from pi_orchestrator.concealment import MASK
from pi_orchestrator.errors import FieldError
from pi_orchestrator.settings.model import Section, Settings

Kind = Literal["string", "number", "boolean", "select", "secret"]
MAX_CHARS = 65_536


@dataclass(frozen=True, slots=True)
class Key:
    """One key: what kind of value it takes, within which limits, and what it is for.

    `options` are all values that there are; `low` and `high` bound a number; text matches `pattern` or is empty.
    """

    path: str
    kind: Kind
    default: str
    description: str
    required: bool
    is_file: bool
    options: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    pattern: str | None = None

    @property
    def is_secret(self) -> bool:
        """Whether its value is shown to nobody."""
        return self.kind == "secret"

    def canonical(self, text: str) -> str:
        """A text as an environment variable would have it → the same value in its usual spelling; FieldError."""
        if len(text) > MAX_CHARS:
            raise FieldError(f"{len(text)} characters, over the limit of {MAX_CHARS}")
        if not text.isprintable():
            raise FieldError("there are characters in it that cannot be printed")
        section, name = self.path.split(".")
        try:
            value = getattr(_section(section).model_validate({name: text}), name)
        except ValidationError as error:
            raise FieldError(error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")) from None
        return text if self.is_secret else as_text(value)


@dataclass(frozen=True, slots=True)
class Group:
    """A section: its name, what it is about, and its keys in the order of the file."""

    name: str
    description: str
    keys: tuple[Key, ...]


@cache
def groups() -> tuple[Group, ...]:
    """Every section of the configuration."""
    return tuple(_group(name, _section(name)) for name in Settings.model_fields)


@cache
def keys() -> Mapping[str, Key]:
    """Every key by its path."""
    return {key.path: key for group in groups() for key in group.keys}


def as_text(value: object) -> str:
    """A value as a text that leads back to it; none is the empty one, a secret its mask."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, SecretStr):
        return MASK
    if isinstance(value, tuple):
        return ",".join(as_text(item) for item in value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value.value if isinstance(value, Enum) else value)


def _section(name: str) -> type[Section]:
    annotation = Settings.model_fields[name].annotation
    if not (isinstance(annotation, type) and issubclass(annotation, Section)):
        raise TypeError(f"{name} is no section")
    return annotation


def _group(name: str, model: type[Section]) -> Group:
    schema = model.model_json_schema()
    fields = {field: _resolved(described, schema.get("$defs", {})) for field, described in schema["properties"].items()}
    # A path to a secret is for those who can read the machine, not for those who can read its answers.
    secrets = {field for field, described in fields.items() if described.get("format") == "password"}
    secrets |= {f"{field}_file" for field in secrets} & fields.keys()
    description = (model.__doc__ or "").partition("`: ")[2]
    return Group(
        name,
        description[:1].upper() + description[1:],
        tuple(_key(name, model, field, described, field in secrets) for field, described in fields.items()),
    )


def _key(section: str, model: type[Section], name: str, schema: dict[str, Any], is_secret: bool) -> Key:
    kinds: dict[str, Kind] = {"boolean": "boolean", "integer": "number", "number": "number"}
    kind: Kind = "select" if "enum" in schema else kinds.get(schema["type"], "string")
    pattern = schema.get("pattern")
    if schema["type"] == "array" and "enum" in schema["items"]:
        one = f"({'|'.join(map(re.escape, schema['items']['enum']))})"
        pattern = f"^{one}( *, *{one})*$"
    return Key(
        path=f"{section}.{name}",
        kind="secret" if is_secret else kind,
        default=as_text(model.model_fields[name].default),
        description=model.model_fields[name].description or "",
        required=_is_refused(model, name, ""),
        is_file=schema.get("format") == "path",
        options=tuple(schema.get("enum", ())),
        low=schema.get("minimum", schema.get("exclusiveMinimum")),
        high=schema.get("maximum", schema.get("exclusiveMaximum")),
        pattern=None if is_secret else pattern,
    )


def _resolved(schema: dict[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    """A field's schema with what it refers to and, where it may be empty, with what it is otherwise."""
    named = schema.get("$ref", "").rsplit("/", 1)[-1]
    some = [option for option in schema.get("anyOf", ()) if option.get("type") != "null"]
    return {**definitions.get(named, {}), **(some[0] if some else {}), **schema}


def _is_refused(model: type[BaseModel], name: str, text: str) -> bool:
    try:
        model.model_validate({name: text})
    except ValidationError:
        return True
    return False
