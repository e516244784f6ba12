"""Shows a session until no camera is under way: redrawn in place on a terminal, else one line per change.

The state is read from the API whenever the event stream is established; then events update it.
"""

from __future__ import annotations

import contextlib
import queue
import shutil
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from pi_orchestrator.cli.client import UnreachableError
from pi_orchestrator.cli.event_stream import Disconnected, Event, follow
from pi_orchestrator.cli.output import columns, print_json, wrapped
from pi_orchestrator.core.stream_events import ESTABLISHED, SESSION_ERROR
from pi_orchestrator.features.provisioning.cli_session import BATCH
from pi_orchestrator.features.provisioning.cli_view import (
    WatchedSession,
    change_line,
    document,
    printed_fields,
    screen,
    summary,
)

if TYPE_CHECKING:
    from pi_orchestrator.cli.client import Client

DRAW_S = 0.25
RECONNECT_LIMIT_S = 300.0
"""Time after which reconnecting is given up: a script must not wait forever for a daemon that does not return."""
INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT."""


class View(Protocol):
    """Shows a session while it runs."""

    def changed(self, watched: WatchedSession) -> None:
        """Process a change of the session or its devices."""

    def show(self, watched: WatchedSession, elapsed_s: float) -> None:
        """Refresh the display; called at least every DRAW_S."""

    def show_note(self, text: str) -> None:
        """Show a message that concerns no single camera; an empty text clears it."""

    def end(self) -> None:
        """Stop overwriting earlier lines."""


def watch(client: Client, session_id: str, *, macs: Iterable[str] = (), as_json: bool = False) -> int:
    """Show a session, or the cameras in `macs`, until it is over; return its exit code, 130 after Ctrl-C."""
    started_at = time.monotonic()
    watched = WatchedSession(macs=macs)
    view: View = _Silent() if as_json else _Screen() if sys.stdout.isatty() else _Lines()
    try:
        _read(client, session_id, watched, view)
        view.show(watched, 0.0)
        if not watched.is_over:
            _follow(client, session_id, watched, view, started_at)
    except KeyboardInterrupt:
        view.end()
        command = f"pi-orchestrator sessions show --watch {session_id[:8]}"
        print(wrapped(f"The session continues. To watch it again: {command}"), file=sys.stderr)
        return INTERRUPTED
    view.end()
    elapsed_s = time.monotonic() - started_at
    if as_json:
        print_json(document(watched, elapsed_s=elapsed_s))
    else:
        for paragraph in summary(watched, elapsed_s=elapsed_s):
            text = paragraph.lstrip(" ")
            print(wrapped(text, indent=" " * (len(paragraph) - len(text))))
    return watched.exit_code


def _follow(client: Client, session_id: str, watched: WatchedSession, view: View, started_at: float) -> None:
    inbox: queue.SimpleQueue[Event | Disconnected | Exception] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(client, session_id, inbox), name="events", daemon=True).start()
    is_over = False
    while not is_over:
        for item in _received(inbox):
            if isinstance(item, Exception):
                raise item
            _handle(client, session_id, item, watched, view)
            is_over = watched.is_over
            if is_over:
                break
        view.show(watched, time.monotonic() - started_at)


def _handle(client: Client, session_id: str, item: Event | Disconnected, watched: WatchedSession, view: View) -> None:
    if isinstance(item, Disconnected):
        view.show_note(f"{item.reason}; retrying in {item.retry_in_s:.0f} s")
        # Only the stream may have failed: try to read the state.
        with contextlib.suppress(UnreachableError):
            _read(client, session_id, watched, view)
    elif item.type == ESTABLISHED:
        _read(client, session_id, watched, view)
        view.show_note("")
    elif item.type == SESSION_ERROR:
        view.show_note(str(item.payload.get("message") or item.payload.get("code")))
    else:
        watched.update(item.type, item.payload)
        view.changed(watched)


def _read(client: Client, session_id: str, watched: WatchedSession, view: View) -> None:
    session = client.get(f"{BATCH}/{session_id}")["session"]
    watched.replace(session, client.get(f"{BATCH}/{session_id}/devices")["devices"])
    view.changed(watched)


def _listen(client: Client, session_id: str, inbox: queue.SimpleQueue[Event | Disconnected | Exception]) -> None:
    try:
        events = follow(
            client, f"{BATCH}/events", retry_limit_s=RECONNECT_LIMIT_S, answered=True, session_id=session_id
        )
        for item in events:
            inbox.put(item)
    except Exception as error:  # noqa: BLE001  # raised again by the main thread
        inbox.put(error)


def _received(inbox: queue.SimpleQueue[Event | Disconnected | Exception]) -> Iterator[Any]:
    """Yield all received items; wait up to DRAW_S for the first."""
    try:
        yield inbox.get(timeout=DRAW_S)
        while True:
            yield inbox.get_nowait()
    except queue.Empty:
        return


class _Screen:
    """For a terminal: overwrites the previous lines."""

    def __init__(self) -> None:
        self._lines = 0
        self._note = ""

    def changed(self, watched: WatchedSession) -> None:
        """Do nothing: the next `show` draws the change."""

    def show(self, watched: WatchedSession, elapsed_s: float) -> None:
        width, height = min(120, columns()), shutil.get_terminal_size((80, 24)).lines
        lines = screen(watched, width=width - 1, height=max(2, height - 1), elapsed_s=elapsed_s, note=self._note)
        # Disable wrapping: a wide character takes two columns, and a wrapped line would not be overwritten.
        self._write("\x1b[?7l" + "".join(f"{line}\x1b[K\n" for line in lines) + "\x1b[?7h\x1b[J")
        self._lines = len(lines)

    def show_note(self, text: str) -> None:
        self._note = text

    def end(self) -> None:
        self._lines = 0

    def _write(self, text: str) -> None:
        up = min(self._lines, max(1, shutil.get_terminal_size((80, 24)).lines - 1))
        print(f"\x1b[{up}F{text}" if up else text, end="", flush=True)


class _Lines:
    """For a file or a pipe: one line for each change of a camera."""

    def __init__(self) -> None:
        self._printed: dict[str, tuple[object, ...]] = {}

    def changed(self, watched: WatchedSession) -> None:
        for device in watched.devices:
            current = printed_fields(device)
            if self._printed.get(str(device.get("mac"))) != current:
                self._printed[str(device.get("mac"))] = current
                print(change_line(device, at=time.strftime("%H:%M:%S"), width=columns()), flush=True)

    def show(self, watched: WatchedSession, elapsed_s: float) -> None:
        """Print nothing: only changes are printed."""

    def show_note(self, text: str) -> None:
        if text:
            print(wrapped(f"{time.strftime('%H:%M:%S')}  {text}"), file=sys.stderr, flush=True)

    def end(self) -> None:
        """Do nothing: no line is overwritten."""


class _Silent:
    """For a script that waits for the document at the end; prints only errors."""

    def changed(self, watched: WatchedSession) -> None:
        """Print nothing."""

    def show(self, watched: WatchedSession, elapsed_s: float) -> None:
        """Print nothing."""

    def show_note(self, text: str) -> None:
        if text:
            print(wrapped(text), file=sys.stderr, flush=True)

    def end(self) -> None:
        """Do nothing: no line is overwritten."""
