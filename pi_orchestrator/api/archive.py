"""The diagnostics bundle as a file: texts in a compressed archive, each of them cleaned and cut to size."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pi_orchestrator import __version__
from pi_orchestrator.clock import rfc3339
from pi_orchestrator.logs import mask_text, masked

MOST_BYTES = 16 * 1024 * 1024
MOST_BYTES_A_FILE = 3 * 1024 * 1024
README = """\
What a Pi Orchestrator knows about itself, for whoever looks into a fault.

manifest.json says when and by what it was made, and what was left out for
its size. *.jsonl have one JSON object a line, oldest first, of which the
newest are kept. Passwords, keys and tokens are masked (***); addresses and
names of devices are not.
"""


class Archive:
    """Collects files; `finish` makes the archive. For a thread: all of it takes time."""

    def __init__(self, *, at: datetime, made_by: str) -> None:
        self.notes: list[str] = []
        self._at = at
        self._made_by = made_by
        self._files: dict[str, bytes] = {}
        self._about: list[dict[str, Any]] = []
        self._left = MOST_BYTES

    def add_text(self, name: str, text: str) -> None:
        """A text; where it is too long its end is kept."""
        # Line by line: a search keeps every other thread waiting for as long as its text is.
        content = _bytes("\n".join(mask_text(line) for line in text.split("\n")))
        left_out = max(0, len(content) - self._room)
        self._add(name, content[left_out:], left_out_bytes=left_out)

    def add_json(self, name: str, value: Any) -> None:
        """A document of plain data; one that is too long is left out, because a part of it could not be read."""
        content = _bytes(json.dumps(masked(value), indent=1) + "\n")
        if len(content) > self._room:
            self._add(name, b"", left_out_bytes=len(content))
        else:
            self._add(name, content)

    def add_lines(self, name: str, lines: Sequence[str], *, rows: int | None = None) -> None:
        """JSON documents, one a line, oldest first: the newest that there is room for; `rows` is how many there are."""
        room = self._room
        kept: list[bytes] = []
        for line in reversed(lines):
            content = _bytes(f"{_masked_line(line)}\n")
            room -= len(content)
            if room < 0:
                break
            kept.append(content)
        left_out = (len(lines) if rows is None else rows) - len(kept)
        self._add(name, b"".join(reversed(kept)), rows=len(kept), left_out_rows=max(0, left_out))

    def finish(self) -> bytes:
        """The archive, with a manifest."""
        folder = f"pi-orchestrator-{self._at:%Y%m%dT%H%M%SZ}"
        manifest = {
            "version": __version__,
            "made_at": rfc3339(self._at),
            "made_by": self._made_by,
            "notes": self.notes,
            "files": self._about,
        }
        files = {
            "README.txt": README.encode(),
            "manifest.json": _bytes(json.dumps(masked(manifest), indent=1) + "\n"),
            **self._files,
        }
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=6) as tar:
            for name, content in files.items():
                info = tarfile.TarInfo(f"{folder}/{name}")
                info.size, info.mode, info.mtime = len(content), 0o600, int(self._at.timestamp())
                tar.addfile(info, io.BytesIO(content))
        return buffer.getvalue()

    @property
    def _room(self) -> int:
        return min(self._left, MOST_BYTES_A_FILE)

    def _add(self, name: str, content: bytes, **about: int) -> None:
        self._left -= len(content)
        self._files[name] = content
        told = {key: value for key, value in about.items() if value or key == "rows"}
        self._about.append({"name": name, "bytes": len(content), **told})


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _masked_line(line: str) -> str:
    """A document with every value made safe; what is none is a text."""
    try:
        return json.dumps(masked(json.loads(line)))
    except (ValueError, RecursionError):
        return mask_text(line)
