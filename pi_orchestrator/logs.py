"""Logging: structlog in front of the standard library, JSON lines for journald, colours on a terminal.

Every value is made safe before it is written: secrets are masked by the name of their field and where
they stand in a text, and control characters cannot start a line of their own. Whoever listens (`heard_by`) is told
what is safe already, and of more than may be written: what is information is heard at any level.
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

from pi_orchestrator.concealment import MASK, Concealer

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
ALWAYS_HEARD = "info"

_SECRET_NAMES = re.compile(r"password|secret|token|api[_-]?key|authorization|cookie|psk", re.IGNORECASE)
_SECRET_IN_TEXT = re.compile(
    r"""(?i)((?:api[_-]?key|token|secret|password|psk|\bkey)(?:["']\s*:\s*["']?|=))[^&\s"',;}]+"""
)
_USER_IN_URL = re.compile(r"(://)[^/\s@]+@")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_CONTROL_IN_TRACE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_OUR_KEY = re.compile(r"(piorch_[0-9a-f]{8}_)[\w-]{20,}", re.ASCII)
CORRELATION_ID: ContextVar[str] = ContextVar("correlation_id")
"""The request that is being answered: on every line that is logged meanwhile."""

_concealer = Concealer()

Hearer = Callable[[EventDict], None]
_hearers: tuple[Hearer, ...] = ()

_PRIORITIES = {"critical": 2, "exception": 3, "error": 3, "warning": 4, "info": 6, "debug": 7}


def get_logger(name: str) -> FilteringBoundLogger:
    """A logger that names the module it speaks for."""
    logger: FilteringBoundLogger = structlog.get_logger(component=name.removeprefix("pi_orchestrator."))
    return logger


def configure(*, level: str, style: str, stream: TextIO | None = None) -> None:
    """Set up the whole process: `style` is `json`, `console` or `auto` (console on a terminal)."""
    out = stream or sys.stderr
    console = style == "console" or (style == "auto" and out.isatty())
    renderer = (
        structlog.dev.ConsoleRenderer(colors=out.isatty())
        if console
        else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    rank: list[Processor] = [_rank] if not console and os.environ.get("JOURNAL_STREAM") else []
    shared: list[Processor] = [
        _add_correlation,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    written = LEVELS[level]
    made_safe: list[Processor] = [structlog.processors.format_exc_info, redact]
    structlog.configure(
        processors=[*shared, *made_safe, _tell, _at_least(written), renderer, *rank],
        wrapper_class=structlog.make_filtering_bound_logger(min(written, LEVELS[ALWAYS_HEARD])),
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", _Outlet(out))),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(_Outlet(out))
    handler.setLevel(written)
    hearing = _Hearing()
    for one, ends in ((handler, [renderer, *rank]), (hearing, [_tell, _nothing])):
        one.setFormatter(
            structlog.stdlib.ProcessorFormatter(
                foreign_pre_chain=[*shared, _name_component],
                processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *made_safe, *ends],
            )
        )
    root = logging.getLogger()
    root.handlers[:] = [handler, hearing]
    # Libraries speak at their own volume: what they call information is detail to the person who runs this.
    root.setLevel(logging.WARNING if level != "debug" else logging.INFO)


def conceal(secrets: Iterable[str]) -> None:
    """Take these secrets out of every line from now on, wherever they stand, in place of those named before."""
    global _concealer  # noqa: PLW0603  # there is one log in a process
    _concealer = Concealer(secrets)


@contextmanager
def heard_by(hearer: Hearer) -> Iterator[None]:
    """Tell somebody every line from information on, made safe, for the length of the block; from any thread.

    What it raises is its own affair: nobody who speaks hears of it.
    """
    global _hearers  # noqa: PLW0603  # there is one log in a process
    _hearers = (*_hearers, hearer)
    try:
        yield
    finally:
        _hearers = tuple(one for one in _hearers if one is not hearer)


def _tell(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    for hearer in _hearers:
        with suppress(Exception):
            hearer(event)
    return event


def _at_least(level: int) -> Processor:
    def gate(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        if LEVELS.get(event["level"], logging.CRITICAL) < level:
            raise structlog.DropEvent
        return event

    return gate


class _Hearing(logging.Handler):
    """Tells what libraries say; to format a record is to tell it."""

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(Exception):  # whoever writes the record complains of it
            self.format(record)


def _nothing(_logger: WrappedLogger, _method: str, _event: EventDict) -> str:
    return ""


class _Outlet:
    """The stream behind the log: that its reader has gone, or its disk is full, is not the fault of who speaks."""

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
                # Nobody will read it any more; left as it is, the rest in the buffer would spoil the exit code.
                with open(os.devnull, "w", encoding="ascii") as nothing:  # noqa: PTH123
                    os.dup2(nothing.fileno(), self._stream.fileno())


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Mask secrets and neutralise control characters in every value of a log entry."""
    return {key: _safe(key, value) for key, value in event.items()}


def masked(value: object) -> object:
    """Plain data, of whatever depth, as `redact` would have it in a log entry."""
    return _safe("", value)


def mask_text(text: str) -> str:
    """A text with what looks like a secret masked: parameters of URLs, fields of JSON, users of URLs, our keys."""
    text = _concealer.clean(text)
    text = _USER_IN_URL.sub(rf"\1{MASK}@", _SECRET_IN_TEXT.sub(rf"\1{MASK}", text))
    return _OUR_KEY.sub(rf"\1{MASK}", text)


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
    return _safe(key, _said(value))  # an error's text, an address: it would be written, too


def _said(value: object) -> str:
    with suppress(Exception):
        return str(value)
    return f"<{type(value).__name__}>"


def _rank(_logger: WrappedLogger, method: str, line: EventDict) -> str:
    """The rendered line with the priority that journald reads from its front: `journalctl -p warning` works."""
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
