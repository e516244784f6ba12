"""A picture on its way from a camera in four phases: ack, info, chunks, complete.

Messages may come in any order and more than once; what contradicts the others ends the capture at once, because a
picture is good only when every chunk is there, the bytes are as many as were announced, and they are a JPEG. Times
are monotonic seconds, passed in.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, assert_never

from pi_orchestrator.domain.command import Phase, names_in, refusal_in
from pi_orchestrator.domain.strict_json import clean_number, clean_text, parse_object
from pi_orchestrator.errors import CaptureError, FieldError

MAX_IMAGE_BYTES = 8 * 1024 * 1024
MAX_CHUNKS = 4096
AT_ONCE = 16
"""Captures in assembly at the same time; the others wait in line."""
ASSEMBLED_BYTES = 64 * 1024 * 1024
"""What they may hold together: sixteen pictures larger than any of these cameras takes, or eight of the largest."""
LIMIT_S = 30.0
ACK_S = 5.0
STALL_S = 10.0
LATE_S = 2.0
"""Once the camera has said that it is done, how long what is still missing may be on its way."""
MAX_CHUNK_MESSAGE_BYTES = MAX_IMAGE_BYTES * 4 // 3 + 4096
MAX_MESSAGE_BYTES = 16 * 1024
"""Of every other phase."""
DECODED_AT_ONCE = 192 * 1024
"""Characters of base64: a longer piece would keep every other thread from running for milliseconds."""

TIMEOUT, FAILED = "CAPTURE_TIMEOUT", "CAPTURE_FAILED"


class Source(StrEnum):
    """Where a picture came from."""

    MQTT = "mqtt"
    HTTP = "http"
    CACHE = "cache"


@dataclass(frozen=True, slots=True)
class Picture:
    """A JPEG; `at` is the monotonic time of `taken_at`, `took_ms` from asking the camera to the last byte."""

    jpeg: bytes
    taken_at: datetime
    at: float
    source: Source
    took_ms: int


@dataclass(frozen=True, slots=True)
class Ack:
    """The camera has begun."""


@dataclass(frozen=True, slots=True)
class Info:
    """How large the picture is, and in how many chunks it comes."""

    total_size: int
    total_chunks: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """One piece of the picture."""

    index: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Complete:
    """The camera has sent everything; the numbers are None where it does not say them."""

    total_chunks: int | None
    chunks_sent: int | None


@dataclass(frozen=True, slots=True)
class Answer:
    """A message of a camera, parsed, and who it says that it is from; `request_id` as the message repeats it."""

    content: Ack | Info | Chunk | Complete | CaptureError
    names: tuple[str, ...] = ()
    request_id: str | None = None


class Budget:
    """Bytes that all captures together may hold while they are put together."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def take(self, size: int) -> bool:
        """Count bytes in, if there is room."""
        if self.used + size > self.limit:
            return False
        self.used += size
        return True

    def take_or_raise(self, size: int) -> int:
        """Count bytes in and say how many; CaptureError where there is no room."""
        if not self.take(size):
            raise CaptureError("too many large pictures at once", retry_after_s=LIMIT_S, ours=True)
        return size

    def give(self, size: int) -> None:
        """Count them out."""
        self.used -= size


def parse_answer(phase: Phase, payload: bytes) -> Answer:
    """One message; its content is a CaptureError where it cannot be read, or says that the capture failed."""
    limit = MAX_CHUNK_MESSAGE_BYTES if phase is Phase.CHUNK else MAX_MESSAGE_BYTES
    names: tuple[str, ...] = ()
    request_id = None
    try:
        fields = parse_object(payload, max_bytes=limit)
        names = names_in(fields)
        request_id = clean_text(fields.get("request_id"))
        content = _content(phase, fields)
    except FieldError as error:
        content = CaptureError(f"the camera's {phase or 'answer'} is {error}")
    return Answer(content, names, request_id)


def _content(phase: Phase, fields: dict[str, Any]) -> Ack | Info | Chunk | Complete | CaptureError:
    if phase is Phase.CHUNK:
        return _chunk(fields)
    if why := refusal_in(phase, fields):
        return _refusal(why, fields)
    if phase is Phase.INFO:
        return _info(fields)
    if phase is Phase.COMPLETE or (phase is Phase.ANSWER and fields.get("status") == "complete"):
        return Complete(_count(fields, "total_chunks"), _count(fields, "chunks_sent"))
    return Ack()


def _chunk(fields: dict[str, Any]) -> Chunk:
    index, data = _count(fields, "chunk_index"), fields.get("chunk_data")
    if index is None or not 0 <= index < MAX_CHUNKS:
        raise FieldError(f"without a chunk_index from 0 to {MAX_CHUNKS - 1}")
    if not isinstance(data, str):
        raise FieldError("without chunk_data")
    return Chunk(index, _decoded(data))


def _info(fields: dict[str, Any]) -> Info:
    size, chunks = _count(fields, "total_size", "image_size"), _count(fields, "total_chunks")
    if size is None or not 0 < size <= MAX_IMAGE_BYTES:
        raise FieldError(f"without a total_size up to {MAX_IMAGE_BYTES} bytes (it says {_shown(size)})")
    if chunks is None or not 0 < chunks <= MAX_CHUNKS:
        raise FieldError(f"without total_chunks up to {MAX_CHUNKS} (it says {_shown(chunks)})")
    kind = fields.get("content_type", "image/jpeg")
    if kind not in ("image/jpeg", "image/jpg"):
        raise FieldError(f"about {clean_text(kind, max_chars=40) or 'something'}, not about image/jpeg")
    return Info(size, chunks)


def _refusal(why: str, fields: dict[str, Any]) -> CaptureError:
    """What the camera says went wrong, with what it tells about it."""
    diagnostics = fields.get("diagnostics")
    told = []
    if isinstance(diagnostics, dict):
        for name in ("free_heap_bytes", "camera_error_code", "consecutive_failures"):
            value = diagnostics.get(name)
            number = clean_number(value, low=-1e12, high=1e12)
            if text := clean_text(value, max_chars=32) if number is None else f"{number:g}":
                told.append(f"{name} {text}")
    wait_ms = clean_number(fields.get("retry_after_ms"), low=1, high=600_000)
    return CaptureError(
        f"the camera could not take a picture: {why}",
        details=", ".join(told) or None,
        retry_after_s=wait_ms / 1000 if wait_ms else None,
        # Firmware that does not know the command may still serve pictures; one whose sensor fails does not.
        final=fields.get("error_code") != "UNSUPPORTED_COMMAND",
    )


def _count(fields: dict[str, Any], *names: str) -> int | None:
    for name in names:
        value = fields.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    return None


def _shown(value: int | None) -> str:
    return "nothing" if value is None else str(clean_number(value, low=-(10**12), high=10**12) or "a huge number")


def _decoded(text: str) -> bytes:
    """Base64, piece by piece where it is long."""
    try:
        if len(text) <= DECODED_AT_ONCE:
            return base64.b64decode(text, validate=True)
        if text.find("=", 0, -4) >= 0:  # it ends a piece, which only the last one may
            raise FieldError("not base64")
        pieces = (text[at : at + DECODED_AT_ONCE] for at in range(0, len(text), DECODED_AT_ONCE))
        return b"".join(base64.b64decode(piece, validate=True) for piece in pieces)
    except (binascii.Error, ValueError):
        raise FieldError("not base64") from None


def is_jpeg(data: bytes) -> bool:
    """Whether bytes begin and end as a JPEG does."""
    return len(data) > 4 and data.startswith(b"\xff\xd8") and data.endswith(b"\xff\xd9")


class Assembly:
    """One picture being put together; `take` messages until it is `whole`, and `discard` it in the end."""

    def __init__(self, *, budget: Budget, now: float) -> None:
        self._budget = budget
        self._info: Info | None = None
        self._complete: Complete | None = None
        self._begun = False
        self._chunks: dict[int, bytes] = {}
        self._highest = -1
        self._size = 0
        self._progress_at = now

    @property
    def whole(self) -> bool:
        """Whether every chunk is there; what the camera says after that changes nothing."""
        return self._info is not None and len(self._chunks) == self._info.total_chunks

    @property
    def due(self) -> float:
        """When the patience with it ends, if nothing new comes."""
        if not self._begun:
            return self._progress_at + ACK_S
        return self._progress_at + (LATE_S if self._complete and self._info else STALL_S)

    def overdue(self) -> CaptureError:
        """What it failed of when nothing came until `due`."""
        if not self._begun:
            return CaptureError(f"the camera did not answer within {ACK_S:g} s", code=TIMEOUT)
        if self._complete and self._info:
            missing = self._info.total_chunks - len(self._chunks)
            return CaptureError(f"{missing} of {self._info.total_chunks} chunks of the picture are missing")
        where = f"after {len(self._chunks)} chunks" if self._chunks else "after it had begun"
        return CaptureError(f"the camera fell silent {where}", code=TIMEOUT)

    def take(self, content: Ack | Info | Chunk | Complete | CaptureError, *, now: float) -> None:
        """Add a message; CaptureError where it contradicts the others or says that the capture failed."""
        match content:
            case CaptureError():
                raise content
            case Chunk():
                new = self._add(content)
            case Info():
                new = self._announce(content)
            case Complete():
                new = self._end(content)
            case Ack():
                new = not self._begun
            case _:
                assert_never(content)
        if new:
            self._begun, self._progress_at = True, now
        self._check()

    def picture(self) -> bytes:
        """The bytes, joined once; CaptureError if they are no JPEG."""
        jpeg = b"".join(self._chunks[index] for index in range(len(self._chunks)))
        self.discard()
        if not is_jpeg(jpeg):
            raise CaptureError("what the camera sent is no JPEG")
        return jpeg

    def discard(self) -> None:
        """Let go of what is held."""
        self._chunks.clear()
        self._budget.give(self._size)
        self._size = 0

    def _add(self, chunk: Chunk) -> bool:
        known = self._chunks.get(chunk.index)
        if known is not None:
            if known != chunk.data:
                raise CaptureError(f"chunk {chunk.index} came twice and was not the same")
            return False
        if self._size + len(chunk.data) > MAX_IMAGE_BYTES:
            raise CaptureError(f"the picture is over {MAX_IMAGE_BYTES} bytes")
        self._size += self._budget.take_or_raise(len(chunk.data))
        self._chunks[chunk.index] = chunk.data
        self._highest = max(self._highest, chunk.index)
        return True

    def _announce(self, info: Info) -> bool:
        if self._info not in (None, info):
            raise CaptureError("the camera announced two different pictures")
        new, self._info = self._info is None, info
        return new

    def _end(self, complete: Complete) -> bool:
        if self._complete not in (None, complete):
            raise CaptureError("the camera ended the picture twice, differently")
        new, self._complete = self._complete is None, complete
        return new

    def _check(self) -> None:
        """What is known so far must fit together."""
        info, complete = self._info, self._complete
        if info is None:
            return
        if self._highest >= info.total_chunks:
            raise CaptureError(f"chunk {self._highest} of a picture of {info.total_chunks} chunks")
        if self._size > info.total_size or (self.whole and self._size != info.total_size):
            raise CaptureError(f"the picture has {self._size} bytes, {info.total_size} were announced")
        for told in (complete.total_chunks, complete.chunks_sent) if complete else ():
            if told not in (None, info.total_chunks):
                raise CaptureError(f"the camera ended with {told} chunks, {info.total_chunks} were announced")
