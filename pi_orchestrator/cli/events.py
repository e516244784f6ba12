"""`events`: what has happened, and what happens."""

from __future__ import annotations

import argparse
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pi_orchestrator.cli.event_stream import ESTABLISHED, HEARTBEAT, Event, Lost, follow, frames, read
from pi_orchestrator.cli.options import add_client
from pi_orchestrator.cli.output import columns, fit, print_json_line, wrapped
from pi_orchestrator.errors import OrchestratorError

if TYPE_CHECKING:
    from pi_orchestrator.cli.client import Client
    from pi_orchestrator.cli.options import Subparsers

PATH = "/api/v1/events"
SHOWN = 20
DEEPEST = 4000
"""How far back it is looked for events of certain types; a stream goes back no further than 5000."""
SILENCE_S = 5.0
"""A stream sends what is stored without a pause."""
TYPE = 22


def add_parser(subparsers: Subparsers) -> None:
    """Add `events`."""
    parser = subparsers.add_parser(
        "events", help="what has happened, and what happens", description=f"The last {SHOWN} events, oldest first."
    )
    add_client(parser)
    parser.add_argument("--follow", "-f", action="store_true", help="go on with those that come, until Ctrl-C")
    parser.add_argument("--types", metavar="A,B.*", help="only these types, or families of them, as camera.*")
    parser.add_argument("--since", type=_event_id, metavar="ID", help="all events after this one instead")
    parser.set_defaults(func=events)


def events(args: argparse.Namespace) -> int:
    """Print events as they were, and with --follow as they come."""
    from pi_orchestrator.cli.client import connect

    client = connect(args)
    newest = _newest(client, args.types)
    past = _past(client, newest, args)
    for event in past:
        _show(event, as_json=args.json)
    if not args.follow:
        if not past and not args.json:
            print("No events.")
        return 0
    was_lost = False
    for item in follow(client, PATH, after=newest, types=args.types):
        if isinstance(item, Lost):
            was_lost = True
            _note(f"{item.reason}; trying again in {item.retry_in_s:.0f} s")
        elif item.type == ESTABLISHED:
            if was_lost:
                _note("connected again")
            if item.payload.get("snapshot"):
                _note("what was missed is not known any more; this is how things stand:")
            was_lost = False
        elif item.type != HEARTBEAT:
            _show(item, as_json=args.json)
    return 0


def one_line(event: Event, *, width: int) -> str:
    """When, what kind, and what; times are UTC."""
    when = event.at[5:19].replace("T", " ")
    return fit(f"{when}  {event.type:<{TYPE}}  {_what(event)}", width).rstrip()


def _what(event: Event) -> str:
    payload = event.payload
    if event.type == "session.status" and isinstance(payload.get("session"), dict):
        session = payload["session"]
        counts = f"{session.get('verified_count')} of {session.get('device_count')} verified"
        return f"{str(session.get('id'))[:8]} {session.get('state')}, {counts}, {session.get('failed_count')} failed"
    if event.type == "device.state_changed" and "new_state" in payload:
        share = f" {payload['progress']} %" if payload.get("progress") else ""
        why = f": {payload['error']}" if payload.get("error") else ""
        return f"{payload.get('mac')}  {payload['new_state']}{share}{why}"
    return "  ".join(_words(payload))


def _words(payload: Mapping[str, Any]) -> Iterator[str]:
    """The fields that fit a line; the MAC first, which needs no name."""
    if payload.get("mac"):
        yield str(payload["mac"])
    for name, value in payload.items():
        if isinstance(value, list) and all(isinstance(one, str | int | float) for one in value):
            yield f"{name}={','.join(map(str, value))}"
        elif name != "mac" and value not in (None, "") and not isinstance(value, dict | list):
            yield f"{name}={value}"


def _newest(client: Client, types: str | None) -> int:
    """The id of the last event that is stored."""
    for frame in frames(client.lines(PATH, silence_s=SILENCE_S, types=types)):
        event = read(frame)
        number = event.payload.get("last_event_id") if event and event.type == ESTABLISHED else frame.id
        if isinstance(number, int):
            return number
    raise OrchestratorError("the daemon has ended the stream", code="UNREACHABLE", details="try again")


def _past(client: Client, newest: int, args: argparse.Namespace) -> list[Event]:
    """What was stored up to the id `newest`: everything since, or the last few."""
    after = args.since if args.since is not None else max(0, newest - (DEEPEST if args.types else SHOWN))
    if after >= newest:
        return []
    found: deque[Event] = deque(maxlen=None if args.since is not None else SHOWN)
    is_there = False
    try:
        for frame in frames(client.lines(PATH, silence_s=SILENCE_S, last_event_id=after)):
            event = read(frame)
            if event is None:
                continue
            is_there = True
            if event.type == ESTABLISHED and event.payload.get("snapshot"):
                _note(f"not all events after {after} are known any more; this is how things stand:")
            elif _is_asked_for(event, args.types) and (event.id is None or event.id <= newest):
                found.append(event)
            if event.id is not None and event.id >= newest:
                break
    except OrchestratorError as error:
        # Who has no key is not told of sessions: the last event may be one of theirs and never come.
        if error.code != "UNREACHABLE" or not is_there:
            raise
    return list(found)


def _is_asked_for(event: Event, types: str | None) -> bool:
    """Whether it is of one of the types that were asked for, as the daemon reads them."""
    if event.type in (ESTABLISHED, HEARTBEAT):
        return False
    asked = types.split(",") if types else ["*"]
    return any(event.type.startswith(one[:-1]) if one.endswith("*") else event.type == one for one in asked)


def _show(event: Event, *, as_json: bool) -> None:
    if as_json:
        print_json_line({"id": event.id, **event.document})
    else:
        print(one_line(event, width=columns()), flush=True)


def _note(text: str) -> None:
    print(wrapped(text), file=sys.stderr, flush=True)


def _event_id(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 2**63):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not the id of an event: a whole number from 0")
    return int(text)
