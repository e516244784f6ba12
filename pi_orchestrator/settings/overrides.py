"""Overrides: settings changed at run time, stored in a file of the state folder.

The file is JSON: a version, and each key with its value as text, in the format of environment variables. This module
parses and renders it; `features/configuration/service.py` writes it.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from pi_orchestrator.core.errors import FieldError
from pi_orchestrator.core.validation import parse_object

NAME = "overrides.json"
VERSION = 1
MAX_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Overrides:
    """The content of the file; `values` is empty if `fault` says why the file cannot be used."""

    file: Path
    values: Mapping[str, str] = field(default_factory=dict, repr=False)
    fault: str = ""


def read(file: Path) -> Overrides:
    """Read the overrides in a file; empty if it does not exist. Changes nothing on disk."""
    try:
        return Overrides(file, _parse(_content(file)))
    except (FileNotFoundError, NotADirectoryError):
        return Overrides(file)
    except OSError as error:
        return Overrides(file, fault=f"cannot be read: {(error.strerror or str(error)).lower()}")
    except ValueError as error:
        return Overrides(file, fault=f"cannot be used: {error}")


def render(values: Mapping[str, str]) -> bytes:
    """The file content for these overrides."""
    return json.dumps({"version": VERSION, "overrides": dict(values)}, indent=2, ensure_ascii=False).encode() + b"\n"


def set_aside(file: Path) -> Path:
    """Rename a file that cannot be used, so that it can be examined later; returns its new path."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
    return file.rename(file.with_name(f"{file.name}.damaged-{stamp}"))


def _content(file: Path) -> bytes:
    # O_NONBLOCK: opening a pipe would block. Reading a device would never end.
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as opened:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("not a regular file")
        return opened.read(MAX_BYTES + 1)


def _parse(content: bytes) -> dict[str, str]:
    tree = parse_object(content, max_bytes=MAX_BYTES, max_depth=2)
    version, values = tree.get("version"), tree.get("overrides")
    if version != VERSION or isinstance(version, bool):
        raise FieldError(f"its version is not {VERSION}: it was written by another version of this program")
    if not isinstance(values, dict) or not all(isinstance(value, str) for value in values.values()):
        raise FieldError("'overrides' must be an object whose values are all strings")
    return values
