"""Follows a batch until no camera is under way any more: redrawn in place on a terminal, else a line a change.

What was true before the stream began, or while it was away, is read once it is there; from then on it tells.
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

from pi_orchestrator.cli.batch_view import Batch, change_line, document, fingerprint, screen, summary
from pi_orchestrator.cli.client import UnreachableError
from pi_orchestrator.cli.event_stream import ESTABLISHED, Event, Lost, follow
from pi_orchestrator.cli.output import columns, print_json, wrapped

if TYPE_CHECKING:
    from pi_orchestrator.cli.client import Client

BASE = "/api/v1/provisioning/batch"
DRAW_S = 0.25
PATIENCE_S = 300.0
"""A script must not wait for ever for a daemon that does not come back."""
INTERRUPTED = 130


class View(Protocol):
    """Shows a batch while it goes on."""

    def changed(self, batch: Batch) -> None:
        """Something has changed."""

    def show(self, batch: Batch, elapsed_s: float) -> None:
        """Time has passed."""

    def remark(self, text: str) -> None:
        """Something that is no camera's state."""

    def end(self) -> None:
        """Leave the terminal to what is printed next."""


def watch(client: Client, session_id: str, *, macs: Iterable[str] = (), as_json: bool = False) -> int:
    """Show a session, or some of its cameras, to its end; the exit code of the batch, 130 after Ctrl-C."""
    began = time.monotonic()
    batch = Batch(macs=macs)
    view: View = _Silent() if as_json else _Screen() if sys.stdout.isatty() else _Lines()
    try:
        _read(client, session_id, batch, view)
        view.show(batch, 0.0)
        if not batch.is_over:
            _follow(client, session_id, batch, view, began)
    except KeyboardInterrupt:
        view.end()
        again = f"pi-orchestrator sessions show --watch {session_id[:8]}"
        print(wrapped(f"The batch goes on without this view. To see it again: {again}"), file=sys.stderr)
        return INTERRUPTED
    view.end()
    elapsed_s = time.monotonic() - began
    if as_json:
        print_json(document(batch, elapsed_s=elapsed_s))
    else:
        for paragraph in summary(batch, elapsed_s=elapsed_s):
            text = paragraph.lstrip(" ")
            print(wrapped(text, indent=" " * (len(paragraph) - len(text))))
    return batch.exit_code


def _follow(client: Client, session_id: str, batch: Batch, view: View, began: float) -> None:
    inbox: queue.SimpleQueue[Event | Lost | Exception] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(client, session_id, inbox), name="events", daemon=True).start()
    is_over = False
    while not is_over:
        for item in _arrived(inbox):
            if isinstance(item, Exception):
                raise item
            _take(client, session_id, item, batch, view)
            is_over = batch.is_over
            if is_over:
                break
        view.show(batch, time.monotonic() - began)


def _take(client: Client, session_id: str, item: Event | Lost, batch: Batch, view: View) -> None:
    if isinstance(item, Lost):
        view.remark(f"{item.reason}; trying again in {item.retry_in_s:.0f} s")
        # Where it is the stream alone that is refused, there is still this way to know.
        with contextlib.suppress(UnreachableError):
            _read(client, session_id, batch, view)
    elif item.type == ESTABLISHED:
        _read(client, session_id, batch, view)
        view.remark("")
    elif item.type == "error":
        view.remark(str(item.payload.get("message") or item.payload.get("code")))
    else:
        batch.tell(item.type, item.payload)
        view.changed(batch)


def _read(client: Client, session_id: str, batch: Batch, view: View) -> None:
    session = client.get(f"{BASE}/{session_id}")["session"]
    batch.take(session, client.get(f"{BASE}/{session_id}/devices")["devices"])
    view.changed(batch)


def _listen(client: Client, session_id: str, inbox: queue.SimpleQueue[Event | Lost | Exception]) -> None:
    try:
        for item in follow(client, f"{BASE}/events", patience_s=PATIENCE_S, session_id=session_id):
            inbox.put(item)
    except Exception as error:  # noqa: BLE001  # it is raised again where somebody sees it
        inbox.put(error)


def _arrived(inbox: queue.SimpleQueue[Event | Lost | Exception]) -> Iterator[Any]:
    """All that has come by now; waits a little for the first."""
    try:
        yield inbox.get(timeout=DRAW_S)
        while True:
            yield inbox.get_nowait()
    except queue.Empty:
        return


class _Screen:
    """A terminal: the lines of before are written over."""

    def __init__(self) -> None:
        self._lines = 0
        self._note = ""

    def changed(self, batch: Batch) -> None:
        """It is drawn soon enough."""

    def show(self, batch: Batch, elapsed_s: float) -> None:
        width, height = min(120, columns()), shutil.get_terminal_size((80, 24)).lines
        lines = screen(batch, width=width - 1, height=max(2, height - 1), elapsed_s=elapsed_s, note=self._note)
        # Without wrapping: a letter may be two columns wide, and a line that became two would not be written over.
        self._write("\x1b[?7l" + "".join(f"{line}\x1b[K\n" for line in lines) + "\x1b[?7h\x1b[J")
        self._lines = len(lines)

    def remark(self, text: str) -> None:
        self._note = text

    def end(self) -> None:
        self._lines = 0

    def _write(self, text: str) -> None:
        up = min(self._lines, max(1, shutil.get_terminal_size((80, 24)).lines - 1))
        print(f"\x1b[{up}F{text}" if up else text, end="", flush=True)


class _Lines:
    """A file or a pipe: a line for each change of a camera."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[object, ...]] = {}

    def changed(self, batch: Batch) -> None:
        for device in batch.devices:
            seen = fingerprint(device)
            if self._told.get(str(device.get("mac"))) != seen:
                self._told[str(device.get("mac"))] = seen
                print(change_line(device, at=time.strftime("%H:%M:%S"), width=columns()), flush=True)

    def show(self, batch: Batch, elapsed_s: float) -> None:
        """Only changes are told."""

    def remark(self, text: str) -> None:
        if text:
            print(wrapped(f"{time.strftime('%H:%M:%S')}  {text}"), file=sys.stderr, flush=True)

    def end(self) -> None:
        """Nothing to leave."""


class _Silent:
    """A script that waits for the document at the end; it is only told what is amiss."""

    def changed(self, batch: Batch) -> None:
        """Nothing is shown."""

    def show(self, batch: Batch, elapsed_s: float) -> None:
        """Nothing is shown."""

    def remark(self, text: str) -> None:
        if text:
            print(wrapped(text), file=sys.stderr, flush=True)

    def end(self) -> None:
        """Nothing to leave."""
