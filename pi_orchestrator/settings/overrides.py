"""Overrides: what operators have set while the daemon ran, in a file of the state folder.

The file is JSON: a version, and each key with its value as text, written as an environment variable would have it.
Here it is read and put into words; `workers/configuration.py` writes it.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from pi_orchestrator.domain.strict_json import parse_object
from pi_orchestrator.errors import FieldError

NAME = "overrides.json"
VERSION = 1
MAX_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Overrides:
    """What the file holds; with a `fault` it could not be used, and nothing is taken from it."""

    file: Path
    values: Mapping[str, str] = field(default_factory=dict, repr=False)
    fault: str = ""


def read(file: Path) -> Overrides:
    """The overrides in a file; no file is none. Touches nothing."""
    try:
        return Overrides(file, _parse(_content(file)))
    except (FileNotFoundError, NotADirectoryError):
        return Overrides(file)
    except OSError as error:
        return Overrides(file, fault=f"cannot be read: {(error.strerror or str(error)).lower()}")
    except ValueError as error:
        return Overrides(file, fault=f"cannot be used: {error}")


def render(values: Mapping[str, str]) -> bytes:
    """The content of a file that holds these."""
    return json.dumps({"version": VERSION, "overrides": dict(values)}, indent=2, ensure_ascii=False).encode() + b"\n"


def set_aside(file: Path) -> Path:
    """Move a file that cannot be used out of the way, for whoever wants to look at it; returns where it is."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
    return file.rename(file.with_name(f"{file.name}.damaged-{stamp}"))


def _content(file: Path) -> bytes:
    # A pipe in its place would block at opening; a device would never end.
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as opened:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("it is no regular file")
        return opened.read(MAX_BYTES + 1)


def _parse(content: bytes) -> dict[str, str]:
    tree = parse_object(content, max_bytes=MAX_BYTES, max_depth=2)
    version, values = tree.get("version"), tree.get("overrides")
    if version != VERSION or isinstance(version, bool):
        raise FieldError(f"its version is not {VERSION}: another version of this program has written it")
    if not isinstance(values, dict) or not all(isinstance(value, str) for value in values.values()):
        raise FieldError("its overrides are not keys with a text each")
    return values
