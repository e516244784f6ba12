"""Logging: structlog in front of the standard library, JSON lines for journald, colours on a terminal.

Every value is redacted before it is written: secrets are masked by field name and within texts, and control characters
are escaped, so no value can start a line of its own. Listeners (`log_listener`) receive redacted entries, from
level info up even if only higher levels are written.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TextIO, cast

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from pi_orchestrator.core.redaction import MASK, Redactor

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
LISTENER_LEVEL = "info"

_SECRET_NAMES = re.compile(r"password|secret|token|api[_-]?key|authorization|cookie|psk", re.IGNORECASE)
_SECRET_IN_TEXT = re.compile(
    r"""(?i)((?:api[_-]?key|token|secret|password|psk|\bkey)(?:["']\s*:\s*["']?|=))[^&\s"',;}]+"""
)
_USER_IN_URL = re.compile(r"(://)[^/\s@]+@")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_CONTROL_IN_TRACE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_API_KEY = re.compile(r"(piorch_[0-9a-f]{8}_)[\w-]{20,}", re.ASCII)
CORRELATION_ID: ContextVar[str] = ContextVar("correlation_id")
"""The id of the request that is being served; added to every line logged in its context."""

_redactor = Redactor()

Listener = Callable[[EventDict], None]
_listeners: tuple[Listener, ...] = ()

_PRIORITIES = {"critical": 2, "exception": 3, "error": 3, "warning": 4, "info": 6, "debug": 7}


def get_logger(name: str) -> FilteringBoundLogger:
    """A logger whose lines name the module."""
    logger: FilteringBoundLogger = structlog.get_logger(
        component=name.removeprefix("pi_orchestrator.").removeprefix("features.")
    )
    return logger


def configure(*, level: str, style: str, stream: TextIO | None = None) -> None:
    """Set up logging of the process: `style` is `json`, `console` or `auto` (console on a terminal)."""
    out = stream or sys.stderr
    console = style == "console" or (style == "auto" and out.isatty())
    renderer = (
        structlog.dev.ConsoleRenderer(colors=out.isatty())
        if console
        else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    priority: list[Processor] = [_add_priority] if not console and os.environ.get("JOURNAL_STREAM") else []
    shared: list[Processor] = [
        _add_correlation,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    written = LEVELS[level]
    redaction: list[Processor] = [structlog.processors.format_exc_info, redact_entry]
    structlog.configure(
        processors=[*shared, *redaction, _notify_listeners, _at_least(written), renderer, *priority],
        wrapper_class=structlog.make_filtering_bound_logger(min(written, LEVELS[LISTENER_LEVEL])),
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", _SafeStream(out))),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(_SafeStream(out))
    handler.setLevel(written)
    listening = _ListenerHandler()
    for target, last in ((handler, [renderer, *priority]), (listening, [_notify_listeners, _render_nothing])):
        target.setFormatter(
            structlog.stdlib.ProcessorFormatter(
                foreign_pre_chain=[*shared, _name_component],
                processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *redaction, *last],
            )
        )
    root = logging.getLogger()
    root.handlers[:] = [handler, listening]
    # Level info of a library is debug for the operator.
    root.setLevel(logging.WARNING if level != "debug" else logging.INFO)


def configure_redaction(secrets: Iterable[str]) -> None:
    """Mask these secrets in every line from now on; replaces those of an earlier call."""
    global _redactor  # noqa: PLW0603  # there is one log in a process
    _redactor = Redactor(secrets)


@contextmanager
def log_listener(listener: Listener) -> Iterator[None]:
    """Call `listener` with every redacted entry of level info or higher, for the duration of the block.

    It is called in the thread that logs. Its exceptions are ignored.
    """
    global _listeners  # noqa: PLW0603  # there is one log in a process
    _listeners = (*_listeners, listener)
    try:
        yield
    finally:
        _listeners = tuple(other for other in _listeners if other is not listener)


def _notify_listeners(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    for listener in _listeners:
        with suppress(Exception):
            listener(event)
    return event


def _at_least(level: int) -> Processor:
    def gate(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        if LEVELS.get(event["level"], logging.CRITICAL) < level:
            raise structlog.DropEvent
        return event

    return gate


class _ListenerHandler(logging.Handler):
    """Passes records of libraries to the listeners; formatting a record does that."""

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(Exception):  # the other handler reports it
            self.format(record)


def _render_nothing(_logger: WrappedLogger, _method: str, _event: EventDict) -> str:
    return ""


class _SafeStream:
    """The stream that the log writes to; a closed reader or a full disk must not raise in code that logs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            try:
                self._stream.flush()
            except BrokenPipeError:
                # The reader has closed. Flushing the rest of the buffer at exit would change the exit code.
                with open(os.devnull, "w", encoding="ascii") as nothing:  # noqa: PTH123
                    os.dup2(nothing.fileno(), self._stream.fileno())


def redact_entry(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Mask secrets and escape control characters in every value of a log entry."""
    return {key: _safe(key, value) for key, value in event.items()}


def redacted(value: object) -> object:
    """Plain data of any depth, redacted as `redact_entry` redacts a value."""
    return _safe("", value)


def mask_text(text: str) -> str:
    """Mask what looks like a secret in a text: URL parameters, JSON fields, users in URLs, API keys of this daemon."""
    text = _redactor.clean(text)
    text = _USER_IN_URL.sub(rf"\1{MASK}@", _SECRET_IN_TEXT.sub(rf"\1{MASK}", text))
    return _API_KEY.sub(rf"\1{MASK}", text)


def _safe(key: str, value: object) -> object:
    if _SECRET_NAMES.search(key) and value not in (None, "", True, False):
        return MASK
    if isinstance(value, str):
        control = _CONTROL_IN_TRACE if key == "exception" else _CONTROL
        return control.sub(lambda match: f"\\x{ord(match[0]):02x}", mask_text(value))
    if isinstance(value, dict):
        return {mask_text(str(name)): _safe(str(name), item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_safe(key, item) for item in value]
    if isinstance(value, bytes):
        return _safe(key, repr(value[:200]))
    if value is None or isinstance(value, int | float):
        return value
    return _safe(key, _text_of(value))  # an object such as an error or an address is logged as its text


def _text_of(value: object) -> str:
    with suppress(Exception):
        return str(value)
    return f"<{type(value).__name__}>"


def _add_priority(_logger: WrappedLogger, method: str, line: EventDict) -> str:
    """Prefix the rendered line with the priority that journald reads, for `journalctl -p warning`."""
    return f"<{_PRIORITIES.get(method, 6)}>{line}"


def _add_correlation(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    if correlation := CORRELATION_ID.get(None):
        event.setdefault("correlation_id", correlation)
    return event


def _name_component(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    record: logging.LogRecord | None = event.get("_record")
    if record is not None:
        event["component"] = record.name
    return event
