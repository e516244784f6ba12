"""`events`: show past events, and follow new ones."""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pi_orchestrator.cli.connection import connect
from pi_orchestrator.cli.event_stream import Event, follow_with_notes, parse_event, parse_frames
from pi_orchestrator.cli.options import add_client
from pi_orchestrator.cli.output import columns, fit, print_json_line, print_note
from pi_orchestrator.core.error_codes import LocalCode
from pi_orchestrator.core.errors import OrchestratorError
from pi_orchestrator.core.stream_events import ESTABLISHED, HEARTBEAT

if TYPE_CHECKING:
    from pi_orchestrator.cli.client import Client
    from pi_orchestrator.cli.options import Subparsers

PATH = "/api/v1/events"
DEFAULT_COUNT = 20
MAX_LOOKBACK = 4000
"""Number of newest events that are searched for `--types`; a stream replays at most 5000."""
IDLE_TIMEOUT_S = 5.0
"""A stream replays stored events without a pause, so a longer silence is a failure."""
TYPE_WIDTH = 22


def add_parser(subparsers: Subparsers) -> None:
    """Add `events`."""
    parser = subparsers.add_parser(
        "events",
        help="show past events, and follow new ones",
        description=f"Show the last {DEFAULT_COUNT} events, oldest first.",
    )
    add_client(parser)
    parser.add_argument("--follow", "-f", action="store_true", help="continue with new events until Ctrl-C")
    parser.add_argument("--types", metavar="A,B.*", help="only these types or families, e.g. camera.*")
    parser.add_argument(
        "--since",
        type=_event_id,
        metavar="ID",
        help=f"show all events after this id instead of the last {DEFAULT_COUNT}",
    )
    parser.set_defaults(func=events)


def events(args: argparse.Namespace) -> int:
    """Print stored events, and with --follow new ones."""
    client = connect(args)
    newest_id = _newest_id(client, args.types)
    past = _past(client, newest_id, args)
    for event in past:
        _show(event, as_json=args.json)
    if not args.follow:
        if not past and not args.json:
            print("No events.")
        return 0
    for event in follow_with_notes(client, PATH, note=print_note, after=newest_id, answered=True, types=args.types):
        if event.type == ESTABLISHED:
            if event.payload.get("snapshot"):
                print_note("Missed events are no longer stored. The current state:")
        elif event.type != HEARTBEAT:
            _show(event, as_json=args.json)
    return 0


def one_line(event: Event, *, width: int) -> str:
    """Time (UTC), type and content of an event on one line of at most `width`."""
    when = event.at[5:19].replace("T", " ")
    return fit(f"{when}  {event.type:<{TYPE_WIDTH}}  {_summary(event)}", width).rstrip()


def _summary(event: Event) -> str:
    from pi_orchestrator.core.events import DeviceStateChanged, SessionStatus

    payload = event.payload
    if event.type == SessionStatus.type and isinstance(payload.get("session"), dict):
        session = payload["session"]
        counts = f"{session.get('verified_count')} of {session.get('device_count')} verified"
        return f"{str(session.get('id'))[:8]} {session.get('state')}, {counts}, {session.get('failed_count')} failed"
    if event.type == DeviceStateChanged.type and "new_state" in payload:
        progress = f" {payload['progress']} %" if payload.get("progress") else ""
        error = f": {payload['error']}" if payload.get("error") else ""
        return f"{payload.get('mac')}  {payload['new_state']}{progress}{error}"
    return "  ".join(_fields(payload))


def _fields(payload: Mapping[str, Any]) -> Iterator[str]:
    """The scalar fields as `name=value`; the MAC first, without a name."""
    if payload.get("mac"):
        yield str(payload["mac"])
    for name, value in payload.items():
        if isinstance(value, list) and all(isinstance(item, str | int | float) for item in value):
            yield f"{name}={','.join(map(str, value))}"
        elif name != "mac" and value not in (None, "") and not isinstance(value, dict | list):
            yield f"{name}={value}"


def _newest_id(client: Client, types: str | None) -> int:
    """The id of the newest stored event."""
    for frame in parse_frames(client.lines(PATH, silence_s=IDLE_TIMEOUT_S, types=types)):
        event = parse_event(frame)
        number = event.payload.get("last_event_id") if event and event.type == ESTABLISHED else frame.id
        if isinstance(number, int):
            return number
    raise OrchestratorError("the daemon closed the stream", code=LocalCode.UNREACHABLE, details="try again")


def _past(client: Client, newest_id: int, args: argparse.Namespace) -> list[Event]:
    """Stored events up to `newest_id`: all after --since, or without it the last DEFAULT_COUNT."""
    after = (
        args.since if args.since is not None else max(0, newest_id - (MAX_LOOKBACK if args.types else DEFAULT_COUNT))
    )
    if after >= newest_id:
        return []
    found: deque[Event] = deque(maxlen=None if args.since is not None else DEFAULT_COUNT)
    has_received = False
    try:
        for frame in parse_frames(client.lines(PATH, silence_s=IDLE_TIMEOUT_S, last_event_id=after)):
            event = parse_event(frame)
            if event is None:
                continue
            has_received = True
            if event.type == ESTABLISHED and event.payload.get("snapshot"):
                print_note(f"some events after {after} are no longer stored; the current state:")
            elif _is_selected(event, args.types) and (event.id is None or event.id <= newest_id):
                found.append(event)
            if event.id is not None and event.id >= newest_id:
                break
    except OrchestratorError as error:
        # Without a key, events of sessions are not sent: if the newest is one of them, only silence ends the replay.
        if error.code != LocalCode.UNREACHABLE or not has_received:
            raise
    return list(found)


def _is_selected(event: Event, types: str | None) -> bool:
    """Whether an event matches --types, by the same rules as in the daemon."""
    if event.type in (ESTABLISHED, HEARTBEAT):
        return False
    names = types.split(",") if types else ["*"]
    return any(event.type.startswith(name[:-1]) if name.endswith("*") else event.type == name for name in names)


def _show(event: Event, *, as_json: bool) -> None:
    if as_json:
        print_json_line({"id": event.id, **event.document})
    else:
        print(one_line(event, width=columns()), flush=True)


def _event_id(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 2**63):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not an event id: must be a whole number from 0")
    return int(text)
