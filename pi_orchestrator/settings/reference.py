"""Description, kind and limits of every settings key, all taken from the model; for the API and the page."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Any, Literal

from pydantic import BaseModel, SecretStr, ValidationError

from pi_orchestrator.core.errors import FieldError
from pi_orchestrator.core.redaction import MASK
from pi_orchestrator.settings.model import Section, Settings

Kind = Literal["string", "number", "boolean", "select", "secret"]
MAX_CHARS = 65_536


@dataclass(frozen=True, slots=True)
class Key:
    """A settings key: its kind, limits and purpose.

    `options` lists all possible values. A number is between `low` and `high`, which may themselves be excluded. Text
    matches `pattern` or is empty. A `required` key may not be empty. `is_file`: the value is the path of a file or
    folder.
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
        """Whether its value is never shown."""
        return self.kind == "secret"

    def canonical(self, text: str) -> str:
        """Text in the format of environment variables → the same value in canonical spelling.

        FieldError if the value is not valid.
        """
        if len(text) > MAX_CHARS:
            raise FieldError(f"{len(text)} characters, over the limit of {MAX_CHARS}")
        if not text.isprintable():
            raise FieldError("contains characters that cannot be printed")
        section, name = self.path.split(".")
        try:
            value = getattr(_section(section).model_validate({name: text}), name)
        except ValidationError as error:
            raise FieldError(error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")) from None
        return text if self.is_secret else as_text(value)


@dataclass(frozen=True, slots=True)
class Group:
    """A section: its name, its description, and its keys in the order of the file."""

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
    """A value as text that parses to the same value; None is the empty text, a secret its mask."""
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
        raise TypeError(f"{name} is not a section")
    return annotation


def _group(section: str, model: type[Section]) -> Group:
    schema = model.model_json_schema()
    definitions = schema.get("$defs", {})
    fields = {name: _resolved(field, definitions) for name, field in schema["properties"].items()}
    # The path of a secret file is not shown either: API clients have no need to know it.
    secrets = {name for name, field in fields.items() if field.get("format") == "password"}
    secrets |= {f"{name}_file" for name in secrets} & fields.keys()
    description = (model.__doc__ or "").partition("`: ")[2]
    return Group(
        section,
        description[:1].upper() + description[1:],
        tuple(_key(section, model, name, field, name in secrets) for name, field in fields.items()),
    )


def _key(section: str, model: type[Section], name: str, schema: dict[str, Any], is_secret: bool) -> Key:
    kinds: dict[str, Kind] = {"boolean": "boolean", "integer": "number", "number": "number"}
    kind: Kind = "select" if "enum" in schema else kinds.get(schema["type"], "string")
    pattern = schema.get("pattern")
    if schema["type"] == "array" and "enum" in schema["items"]:
        item = f"({'|'.join(map(re.escape, schema['items']['enum']))})"
        pattern = f"^{item}( *, *{item})*$"
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
    """A field's schema, merged with the definition that it references and with its non-null alternative."""
    reference = schema.get("$ref", "").rsplit("/", 1)[-1]
    alternatives = [option for option in schema.get("anyOf", ()) if option.get("type") != "null"]
    return {**definitions.get(reference, {}), **(alternatives[0] if alternatives else {}), **schema}


def _is_refused(model: type[BaseModel], name: str, text: str) -> bool:
    try:
        model.model_validate({name: text})
    except ValidationError:
        return True
    return False
