"""Capture by MQTT: parsing of the four phases ack, info, chunk and complete, and assembly of the picture.

Messages may arrive in any order and more than once. A contradiction ends the capture immediately. A picture is valid
if every chunk is there, the size is as announced, and the data is a JPEG; padding after its end is cut off. Times are
monotonic seconds, passed in.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, assert_never

from pi_orchestrator.core.byte_budget import ByteBudget
from pi_orchestrator.core.error_codes import ErrorCode
from pi_orchestrator.core.errors import CaptureError, FieldError
from pi_orchestrator.core.validation import clean_number, clean_text, parse_camera_object
from pi_orchestrator.features.commands.model import (
    MAX_CHUNK_MESSAGE_BYTES,
    MAX_MESSAGE_BYTES,
    Phase,
    refusal_reason,
    sender_names,
)
from pi_orchestrator.net.jpeg import MAX_IMAGE_BYTES, cut_jpeg, other_content_type

MAX_CHUNKS = 4096
MAX_CONCURRENT = 16
"""Captures that run concurrently; the others wait."""
LIMIT_S = 30.0
"""Time limit of a whole capture: of the wait for a slot, the attempt by MQTT and the attempt by HTTP together."""
ACK_S = 5.0
"""Time limit for the first message of the camera."""
STALL_S = 10.0
"""Time limit for each next message with new content."""
LATE_S = 2.0
"""How long missing chunks may still arrive after the camera has sent `complete`."""
DECODE_PIECE_CHARS = 192 * 1024
"""Decoding more base64 at once would block all other threads for milliseconds.

A multiple of four, so that each piece can be decoded separately.
"""

TIMEOUT, FAILED = ErrorCode.CAPTURE_TIMEOUT, ErrorCode.CAPTURE_FAILED


class Source(StrEnum):
    """How a picture was obtained."""

    MQTT = "mqtt"
    HTTP = "http"
    CACHE = "cache"


@dataclass(frozen=True, slots=True)
class Picture:
    """A JPEG; `at` is the monotonic time of `taken_at`, `took_ms` is from the request to the last byte."""

    jpeg: bytes
    taken_at: datetime
    at: float
    source: Source
    took_ms: int


@dataclass(frozen=True, slots=True)
class Ack:
    """The camera has started."""


@dataclass(frozen=True, slots=True)
class Info:
    """The size of the picture in bytes, and its number of chunks."""

    total_size: int
    total_chunks: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """One piece of the picture, numbered from 0."""

    index: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Complete:
    """The camera has sent everything; numbers that are not in the message are None."""

    total_chunks: int | None
    chunks_sent: int | None


@dataclass(frozen=True, slots=True)
class Answer:
    """A parsed message: its content, and the sender names and request id in it."""

    content: Ack | Info | Chunk | Complete | CaptureError
    names: tuple[str, ...] = ()
    request_id: str | None = None


def parse_answer(phase: Phase, payload: bytes) -> Answer:
    """Parse one message; if the message is invalid or reports a failure, the content is a CaptureError."""
    limit = MAX_CHUNK_MESSAGE_BYTES if phase is Phase.CHUNK else MAX_MESSAGE_BYTES
    names: tuple[str, ...] = ()
    request_id = None
    try:
        fields = parse_camera_object(payload, max_bytes=limit)
        names = sender_names(fields)
        request_id = clean_text(fields.get("request_id"))
        content = _content(phase, fields)
    except FieldError as error:
        content = CaptureError(f"invalid {phase or 'answer'} from the camera: {error}")
    return Answer(content, names, request_id)


def _content(phase: Phase, fields: dict[str, Any]) -> Ack | Info | Chunk | Complete | CaptureError:
    if phase is Phase.CHUNK:
        return _chunk(fields)
    if reason := refusal_reason(phase, fields):
        return _refusal(reason, fields)
    if phase is Phase.INFO:
        return _info(fields)
    if phase is Phase.COMPLETE or (phase is Phase.ANSWER and fields.get("status") == "complete"):
        return Complete(_count(fields, "total_chunks"), _count(fields, "chunks_sent"))
    return Ack()


def _chunk(fields: dict[str, Any]) -> Chunk:
    index, data = _count(fields, "chunk_index"), fields.get("chunk_data")
    if index is None or not 0 <= index < MAX_CHUNKS:
        raise FieldError(f"chunk_index is not a number from 0 to {MAX_CHUNKS - 1}")
    if not isinstance(data, str):
        raise FieldError("chunk_data is missing or not text")
    return Chunk(index, _decode(data))


def _info(fields: dict[str, Any]) -> Info:
    size, chunks = _count(fields, "total_size", "image_size"), _count(fields, "total_chunks")
    if size is None or not 0 < size <= MAX_IMAGE_BYTES:
        raise FieldError(f"total_size is {_shown(size)}, expected 1 to {MAX_IMAGE_BYTES} bytes")
    if chunks is None or not 0 < chunks <= MAX_CHUNKS:
        raise FieldError(f"total_chunks is {_shown(chunks)}, expected 1 to {MAX_CHUNKS}")
    if kind := other_content_type(fields.get("content_type")):
        raise FieldError(f"content_type is {kind}, expected image/jpeg")
    return Info(size, chunks)


def _refusal(reason: str, fields: dict[str, Any]) -> CaptureError:
    """The failure that a camera reports, with its diagnostics."""
    diagnostics = fields.get("diagnostics")
    values = []
    if isinstance(diagnostics, dict):
        for name in ("free_heap_bytes", "camera_error_code", "consecutive_failures"):
            value = diagnostics.get(name)
            number = clean_number(value, low=-1e12, high=1e12)
            if text := clean_text(value, max_chars=32) if number is None else f"{number:g}":
                values.append(f"{name} {text}")
    wait_ms = clean_number(fields.get("retry_after_ms"), low=1, high=600_000)
    return CaptureError(
        f"the camera could not take a picture: {reason}",
        details=", ".join(values) or None,
        retry_after_s=wait_ms / 1000 if wait_ms else None,
        # Firmware without this command may still serve pictures by HTTP; a camera with a failed sensor does not.
        final=fields.get("error_code") != "UNSUPPORTED_COMMAND",
    )


def _count(fields: dict[str, Any], *names: str) -> int | None:
    for name in names:
        value = fields.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    return None


def _shown(value: int | None) -> str:
    if value is None:
        return "missing"
    return "too large" if clean_number(value, low=-(10**12), high=10**12) is None else str(value)


def _decode(text: str) -> bytes:
    """Decode base64 in pieces of `DECODE_PIECE_CHARS`; FieldError if invalid."""
    try:
        if len(text) <= DECODE_PIECE_CHARS:
            return base64.b64decode(text, validate=True)
        if text.find("=", 0, -4) >= 0:  # padding is valid only at the end of the whole text
            raise FieldError("chunk_data is not base64")
        pieces = (text[start : start + DECODE_PIECE_CHARS] for start in range(0, len(text), DECODE_PIECE_CHARS))
        return b"".join(base64.b64decode(piece, validate=True) for piece in pieces)
    except (binascii.Error, ValueError):
        raise FieldError("chunk_data is not base64") from None


class Assembly:
    """Assembly of one picture: `take` messages until it `is_complete`, and `discard` it at the end."""

    def __init__(self, *, budget: ByteBudget, now: float) -> None:
        self._budget = budget
        self._info: Info | None = None
        self._complete: Complete | None = None
        self._started = False
        self._chunks: dict[int, bytes] = {}
        self._highest = -1
        self._size = 0
        self._progress_at = now

    @property
    def is_complete(self) -> bool:
        """Whether every chunk is there; later messages are ignored."""
        return self._info is not None and len(self._chunks) == self._info.total_chunks

    @property
    def deadline(self) -> float:
        """When the capture times out if nothing new arrives."""
        if not self._started:
            return self._progress_at + ACK_S
        return self._progress_at + (LATE_S if self._complete and self._info else STALL_S)

    def timeout_error(self) -> CaptureError:
        """The error if nothing new arrived until `deadline`."""
        if not self._started:
            return CaptureError(f"the camera did not answer within {ACK_S:g} s", code=TIMEOUT)
        if self._complete and self._info:
            missing = self._info.total_chunks - len(self._chunks)
            return CaptureError(f"{missing} of {self._info.total_chunks} chunks of the picture are missing")
        where = f"after {len(self._chunks)} chunks" if self._chunks else "before the first chunk"
        return CaptureError(f"the camera stopped sending {where}", code=TIMEOUT)

    def take(self, content: Ack | Info | Chunk | Complete | CaptureError, *, now: float) -> None:
        """Add a message; CaptureError if it contradicts the others or reports a failure."""
        match content:
            case CaptureError():
                raise content
            case Chunk():
                new = self._add_chunk(content)
            case Info():
                new = self._add_info(content)
            case Complete():
                new = self._add_complete(content)
            case Ack():
                new = not self._started
            case _:
                assert_never(content)
        if new:
            self._started, self._progress_at = True, now
        self._check_consistency()

    def picture(self) -> bytes:
        """The JPEG without padding; releases the chunks. CaptureError if the data is not a JPEG."""
        jpeg = cut_jpeg(b"".join(self._chunks[index] for index in range(len(self._chunks))))
        self.discard()
        if jpeg is None:
            raise CaptureError("the picture from the camera is not a JPEG")
        return jpeg

    def discard(self) -> None:
        """Release the chunks and their share of the budget."""
        self._chunks.clear()
        self._budget.release(self._size)
        self._size = 0

    def _add_chunk(self, chunk: Chunk) -> bool:
        data = self._chunks.get(chunk.index)
        if data is not None:
            if data != chunk.data:
                raise CaptureError(f"chunk {chunk.index} was received twice with different data")
            return False
        if self._size + len(chunk.data) > MAX_IMAGE_BYTES:
            raise CaptureError(f"the picture is over {MAX_IMAGE_BYTES} bytes")
        self._size += self._budget.take_or_raise(len(chunk.data))
        self._chunks[chunk.index] = chunk.data
        self._highest = max(self._highest, chunk.index)
        return True

    def _add_info(self, info: Info) -> bool:
        if self._info not in (None, info):
            raise CaptureError("the camera announced two different pictures")
        new, self._info = self._info is None, info
        return new

    def _add_complete(self, complete: Complete) -> bool:
        if self._complete not in (None, complete):
            raise CaptureError("the camera sent two different complete messages")
        new, self._complete = self._complete is None, complete
        return new

    def _check_consistency(self) -> None:
        """CaptureError if info, chunks and complete contradict each other."""
        info, complete = self._info, self._complete
        if info is None:
            return
        if self._highest >= info.total_chunks:
            raise CaptureError(f"chunk {self._highest} is out of range: {info.total_chunks} chunks were announced")
        if self._size > info.total_size or (self.is_complete and self._size != info.total_size):
            raise CaptureError(f"the picture has {self._size} bytes, {info.total_size} were announced")
        for count in (complete.total_chunks, complete.chunks_sent) if complete else ():
            if count not in (None, info.total_chunks):
                raise CaptureError(f"the camera sent {count} chunks, {info.total_chunks} were announced")
