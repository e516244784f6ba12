"""The support bundle as a file: a compressed archive of texts, with secrets masked and sizes limited."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pi_orchestrator import __version__
from pi_orchestrator.core.clock import rfc3339
from pi_orchestrator.core.logging import mask_text, redacted

MAX_BYTES = 16 * 1024 * 1024
MAX_FILE_BYTES = 3 * 1024 * 1024
README = """\
Diagnostics of a Pi Orchestrator, for finding the cause of a fault.

manifest.json contains the time, the origin of this bundle, and what was
omitted because of its size. *.jsonl files have one JSON object per line,
oldest first; if a file is too long, the oldest lines are omitted.
Passwords, keys and tokens are masked (***). Addresses and names of devices
are not masked.
"""


class Archive:
    """Collects files; `finish` returns the archive. Use it in a thread: masking and compression block."""

    def __init__(self, *, at: datetime, made_by: str) -> None:
        self.notes: list[str] = []
        self._at = at
        self._made_by = made_by
        self._files: dict[str, bytes] = {}
        self._entries: list[dict[str, Any]] = []
        self._left = MAX_BYTES

    def add_text(self, name: str, text: str) -> None:
        """Add a text; if it is too long, only its end."""
        # Mask line by line: a regex search holds the GIL for the whole text.
        content = _bytes("\n".join(mask_text(line) for line in text.split("\n")))
        left_out = max(0, len(content) - self._capacity)
        self._add(name, content[left_out:], left_out_bytes=left_out)

    def add_json(self, name: str, value: Any) -> None:
        """Add a JSON document; one that is too long is omitted, because a part of it is not valid JSON."""
        content = _bytes(json.dumps(redacted(value), indent=1) + "\n")
        if len(content) > self._capacity:
            self._add(name, b"", left_out_bytes=len(content))
        else:
            self._add(name, content)

    def add_lines(self, name: str, lines: Sequence[str], *, rows: int | None = None) -> None:
        """Add the newest of `lines` that fit, one JSON document each, oldest first; `rows` is the total number."""
        capacity = self._capacity
        kept: list[bytes] = []
        for line in reversed(lines):
            content = _bytes(f"{_masked_line(line)}\n")
            capacity -= len(content)
            if capacity < 0:
                break
            kept.append(content)
        left_out = (len(lines) if rows is None else rows) - len(kept)
        self._add(name, b"".join(reversed(kept)), rows=len(kept), left_out_rows=max(0, left_out))

    def finish(self) -> bytes:
        """Return the archive (tar.gz) with a manifest."""
        folder = f"pi-orchestrator-{self._at:%Y%m%dT%H%M%SZ}"
        manifest = {
            "version": __version__,
            "made_at": rfc3339(self._at),
            "made_by": self._made_by,
            "notes": self.notes,
            "files": self._entries,
        }
        files = {
            "README.txt": README.encode(),
            "manifest.json": _bytes(json.dumps(redacted(manifest), indent=1) + "\n"),
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
    def _capacity(self) -> int:
        return min(self._left, MAX_FILE_BYTES)

    def _add(self, name: str, content: bytes, **counts: int) -> None:
        self._left -= len(content)
        self._files[name] = content
        shown = {key: value for key, value in counts.items() if value or key == "rows"}
        self._entries.append({"name": name, "bytes": len(content), **shown})


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _masked_line(line: str) -> str:
    """A JSON document with masked values; other content is masked as text."""
    try:
        return json.dumps(redacted(json.loads(line)))
    except (ValueError, RecursionError):
        return mask_text(line)
