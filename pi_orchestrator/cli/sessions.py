"""`sessions`: many cameras at once are sent to their network, watched, and gone on with after a crash."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pi_orchestrator.cli.options import add_client
from pi_orchestrator.cli.output import print_json, table, wrapped
from pi_orchestrator.errors import NotFoundError, OrchestratorError, SettingsError

if TYPE_CHECKING:
    from pi_orchestrator.cli.client import Client
    from pi_orchestrator.cli.options import Subparsers

    Json = dict[str, Any]

BASE = "/api/v1/provisioning/batch"
SESSIONS = "/api/v1/provisioning/sessions"
MAX_PASSWORD_BYTES = 1024
LATEST = 100
"""How many ended sessions are looked through for the beginning of an id."""
STATES = ("discovered", "provisioning", "provisioned", "verifying", "verified", "failed")
_ID = re.compile(r"[0-9a-f-]{1,36}", re.ASCII)
_WHOLE_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)


def add_parser(subparsers: Subparsers) -> None:
    """Add `sessions` and its verbs."""
    parser = subparsers.add_parser(
        "sessions",
        help="provision many cameras at once",
        description="Provision many cameras at once. A session is named by its id or the beginning of it;"
        " where it is left out, the one that is open is meant.",
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    _add_start(verbs)
    show = _verb(verbs, "show", show_session, "how a session stands")
    _add_watch(show)
    listing = _verb(verbs, "devices", list_devices, "the cameras of a session")
    listing.add_argument("--state", choices=STATES, metavar="STATE", help=f"only: {', '.join(STATES)}")
    everyone = _verb(
        verbs,
        "provision-all",
        provision_all,
        "provision every camera that is on the allowlist",
        more="; exit code 1 when one fails, 130 after Ctrl-C (the batch goes on)",
    )
    everyone.add_argument("--no-wait", action="store_true", help="only start; do not watch until all are done")
    for name, help_text in (
        ("provision", "provision one camera"),
        ("retry", "once more, a camera that has failed"),
        ("skip", "leave a camera out of the batch"),
    ):
        verb = _verb(verbs, name, one_device, help_text, of_camera=True)
        if name != "skip":
            verb.add_argument("--wait", action="store_true", help="watch it to its end; exit code 1 when it fails")
    _verb(verbs, "pause", pause, "finish what is in hand, start nothing new")
    _add_watch(_verb(verbs, "resume", resume, "go on, also after a restart of the daemon"))
    _verb(verbs, "close", close, "end a session and erase its password")
    _verb(verbs, "discard", discard, "end a session at once, for good")
    _listing(verbs, "recoverable", recoverable, "sessions that a restart has cut off")
    past = _listing(verbs, "history", history, "sessions that have ended, newest first")
    past.add_argument("--limit", type=int, default=20, metavar="N", help="rows at most (%(default)s)")


def _add_start(verbs: Subparsers) -> None:
    start = _listing(
        verbs,
        "start",
        start_session,
        "open a session",
        more=". The network that cameras are sent to is the configured one unless --ssid names another. Its password"
        " is asked for, or read; never an argument, where others could see it",
    )
    start.add_argument("--ssid", metavar="NAME", help="the network that cameras are sent to")
    # A group of which one may be given makes a line of the usage too long: _password() sees to it.
    start.add_argument("--password-file", metavar="FILE", help="its password is the first line of a file")
    start.add_argument("--password-stdin", action="store_true", help="its password is the first line of stdin")
    start.add_argument("--open", action="store_true", help="it has no password")
    start.add_argument("--interface", metavar="NAME", help="where the cameras are (default: as configured)")
    for step in ("discovery", "provisioning", "verification"):
        start.add_argument(f"--{step}-timeout", type=int, metavar="S", help=f"seconds for {step}")


def _add_watch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--watch", action="store_true", help="until no camera is under way; exit code 1 when one fails")


def _verb(
    verbs: Subparsers,
    name: str,
    function: Callable[[argparse.Namespace], int],
    help_text: str,
    *,
    more: str = "",
    of_camera: bool = False,
) -> argparse.ArgumentParser:
    """A verb of one session."""
    verb = _listing(verbs, name, function, help_text, more=more)
    if of_camera:
        verb.add_argument("mac", metavar="MAC", help="in any spelling")
    verb.add_argument("session", nargs="?", metavar="SESSION", help="its id or the beginning of it (the open one)")
    return verb


def _listing(
    verbs: Subparsers, name: str, function: Callable[[argparse.Namespace], int], help_text: str, *, more: str = ""
) -> argparse.ArgumentParser:
    description = f"{help_text[0].upper()}{help_text[1:]}{more}."
    verb = verbs.add_parser(name, help=help_text, description=description)
    add_client(verb)
    verb.set_defaults(func=function)
    return verb


def start_session(args: argparse.Namespace) -> int:
    """Open a session."""
    body: Json = {}
    if args.ssid is not None:
        body["target_ssid"] = args.ssid
    if args.interface is not None:
        body["network_interface"] = args.interface
    steps = ("discovery", "provisioning", "verification")
    config = {f"{step}_timeout_seconds": getattr(args, f"{step}_timeout") for step in steps}
    if given := {name: value for name, value in config.items() if value is not None}:
        body["config"] = given
    client = _client(args)
    password = _password(args)
    if password is not None:
        body["target_password"] = password
    answer = client.post(BASE, body)
    session = answer["session"]
    if args.json:
        print_json(session)
        return 0
    target = session["target_ssid"]
    print(f"Session {session['id']} on {session['network_interface']}")
    print(wrapped(answer["message"]))
    if target:
        print(wrapped(f"Cameras will be sent to {target!r} by: pi-orchestrator sessions provision-all"))
    else:
        print(wrapped("No camera can be sent anywhere from it: no network is configured, or named with --ssid."))
    return 0


def show_session(args: argparse.Namespace) -> int:
    """Print one session, or watch it."""
    client = _client(args)
    session_id = _find(client, args.session)
    if args.watch:
        return _watch(client, session_id, args)
    answer = client.get(f"{BASE}/{session_id}")
    if args.json:
        print_json(answer)
        return 0
    session, network = answer["session"], answer["network_status"]
    config = session["config"]
    radio = f"{network['ssid'] or 'no name'}, {'up' if network['is_active'] else 'down'}"
    rows = [
        ("id", session["id"]),
        ("state", _state(session)),
        ("time left", answer["timeout_remaining"]),
        ("interface", session["network_interface"]),
        ("cameras' network", f"{radio}, {network['connected_devices']} on it"),
        ("sent to", session["target_ssid"] or "nowhere: no network is configured or named"),
        ("cameras", session["device_count"]),
        ("took credentials", session["provisioned_count"]),
        ("verified", session["verified_count"]),
        ("failed or skipped", session["failed_count"]),
        (
            "time-outs",
            ", ".join(f"{name.removesuffix('_timeout_seconds')} {value} s" for name, value in config.items()),
        ),
        ("started", session["created_at"][:19].replace("T", " ")),
    ]
    print(table(("SESSION", ""), rows))
    return 0


def list_devices(args: argparse.Namespace) -> int:
    """Print the cameras of a session."""
    from pi_orchestrator.cli.batch_view import camera_line
    from pi_orchestrator.cli.output import columns

    client = _client(args)
    devices = client.get(f"{BASE}/{_find(client, args.session)}/devices", state=args.state)["devices"]
    if args.json:
        print_json(devices)
    elif devices:
        for device in devices:
            print(camera_line(device, width=columns()))
    else:
        print(
            "No cameras." if args.state else "No cameras yet. They join when they are seen on the session's interface."
        )
    return 0


def provision_all(args: argparse.Namespace) -> int:
    """Start every camera that may be, and watch."""
    client = _client(args)
    session_id = _find(client, args.session)
    answer = client.post(f"{BASE}/{session_id}/provision-all", {"only_allowlisted": True})
    if not args.no_wait:
        return _watch(client, session_id, args)
    return _tell(args, answer)


def one_device(args: argparse.Namespace) -> int:
    """Provision, retry or skip a camera."""
    client = _client(args)
    session_id = _find(client, args.session)
    answer = client.post(f"{BASE}/{session_id}/devices/{quote(args.mac, safe='')}/{args.verb}")
    if getattr(args, "wait", False):
        return _watch(client, session_id, args, macs=[answer["mac"]])
    return _tell(args, answer)


def pause(args: argparse.Namespace) -> int:
    """Start nothing new."""
    client = _client(args)
    answer = client.post(f"{BASE}/{_find(client, args.session)}/pause")
    return _tell(args, answer, "paused: what is in hand is finished, nothing new is started")


def resume(args: argparse.Namespace) -> int:
    """Go on with a paused session, or with one that a restart has cut off."""
    client = _client(args)
    session_id = _find(client, args.session)
    interrupted = client.get(f"{BASE}/{session_id}")["session"].get("interrupted")
    answer = client.post(f"{SESSIONS if interrupted else BASE}/{session_id}/resume")
    if args.watch:
        return _watch(client, session_id, args)
    return _tell(args, answer, "going on")


def close(args: argparse.Namespace) -> int:
    """End a session."""
    client = _client(args)
    answer = client.post(f"{BASE}/{_find(client, args.session)}/close")
    return _tell(args, answer, "closed")


def discard(args: argparse.Namespace) -> int:
    """End a session at once."""
    client = _client(args)
    session_id = _find(client, args.session)
    client.delete(f"{SESSIONS}/{session_id}")
    print_json({"discarded": session_id}) if args.json else print(f"Session {session_id} is discarded.")
    return 0


def recoverable(args: argparse.Namespace) -> int:
    """Print the sessions that wait to be resumed."""
    sessions = _client(args).get(f"{SESSIONS}/recoverable")["sessions"]
    if args.json:
        print_json(sessions)
    elif sessions:
        print(_session_table(sessions))
        print("To go on with one: pi-orchestrator sessions resume ID --watch")
    else:
        print("No session was cut off.")
    return 0


def history(args: argparse.Namespace) -> int:
    """Print the sessions that have ended."""
    page = _client(args).get(f"{SESSIONS}/history", limit=args.limit)
    if args.json:
        print_json(page)
        return 0
    print(_session_table(page["sessions"]) if page["sessions"] else "No session has ended yet.")
    left = page["pagination"]["total"] - len(page["sessions"])
    if left > 0:
        print(f"… and {left} older ones (--limit).")
    return 0


def _client(args: argparse.Namespace) -> Client:
    from pi_orchestrator.cli.client import connect

    return connect(args)


def _watch(client: Client, session_id: str, args: argparse.Namespace, *, macs: list[str] | None = None) -> int:
    from pi_orchestrator.cli.batch_watch import watch

    return watch(client, session_id, macs=macs or (), as_json=args.json)


def _find(client: Client, given: str | None) -> str:
    """The id of the session that is meant; an error that lists the candidates where that is not clear."""
    if given is not None and not _ID.fullmatch(given.lower()):
        raise OrchestratorError(
            f"{given!r} is not the id of a session, nor the beginning of one",
            details="see: pi-orchestrator sessions history, or leave it out: the open one is meant",
        )
    if given is not None and _WHOLE_ID.fullmatch(given.lower()):
        return given.lower()
    found = client.get(SESSIONS)["sessions"]
    if given is not None:
        begin = given.lower()
        found = [*found, *client.get(f"{SESSIONS}/history", limit=LATEST)["sessions"]]
        found = [one for one in found if str(one["id"]).startswith(begin)]
    if len(found) == 1:
        return str(found[0]["id"])
    if found:
        raise OrchestratorError(
            f"{len(found)} sessions {'are open' if given is None else f'begin with {given!r}'}: name one",
            details="\n  ".join(_in_a_line(one) for one in found),
        )
    if given is not None:
        raise NotFoundError(
            f"no session begins with {given!r}",
            code="SESSION_NOT_FOUND",
            details="see: pi-orchestrator sessions history",
        )
    raise NotFoundError(
        "no session is open", code="SESSION_NOT_FOUND", details="open one: pi-orchestrator sessions start"
    )


def _in_a_line(session: Json) -> str:
    return f"{session['id']} {_state(session)} on {session['network_interface']}"


def _state(session: Json) -> str:
    if session.get("interrupted"):
        return f"{session['state']} (cut off by a restart)"
    ending = session.get("ending", session["state"])
    return str(session["state"]) if ending == session["state"] else f"{session['state']} ({ending})"


def _session_table(sessions: list[Json]) -> str:
    rows = [
        (
            session["id"][:8],
            session["created_at"][:16].replace("T", " "),
            _state(session),
            session["network_interface"],
            session["device_count"],
            session["verified_count"],
            session["failed_count"],
            session["target_ssid"],
        )
        for session in sessions
    ]
    return table(
        ("ID", "STARTED (UTC)", "STATE", "ON", "CAMERAS", "VERIFIED", "FAILED", "SENT TO"), rows, shrink=(7, 2)
    )


def _password(args: argparse.Namespace) -> str | None:
    """The target network's password from where it was said to be; None for the configured one."""
    if args.open + args.password_stdin + (args.password_file is not None) > 1:
        raise SettingsError(["--password-file, --password-stdin, --open: only one of them"])
    if args.open:
        return ""
    try:
        if args.password_file is not None:
            with Path(args.password_file).open("rb") as file:
                return _first_line(file.read(MAX_PASSWORD_BYTES + 1), args.password_file)
        if args.password_stdin:
            return _first_line(sys.stdin.buffer.readline(MAX_PASSWORD_BYTES + 1), "stdin")
    except OSError as error:
        raise OrchestratorError(
            f"{args.password_file or 'stdin'} cannot be read: {error.strerror}",
            details="name a file with the password in its first line, or pipe it to --password-stdin",
        ) from error
    if args.ssid is None:
        return None
    if not sys.stdin.isatty():
        raise SettingsError(["--ssid: its password is needed: --password-file, --password-stdin or --open"])
    from getpass import getpass

    try:
        return _not_empty(getpass(f"Password of {args.ssid!r}: "), "what was typed")
    except EOFError:
        raise KeyboardInterrupt from None


def _first_line(raw: bytes, origin: str) -> str:
    line = raw.split(b"\n", 1)[0].removesuffix(b"\r")
    if len(line) > MAX_PASSWORD_BYTES:
        raise OrchestratorError(f"{origin} holds no password: its first line is far too long")
    try:
        return _not_empty(line.decode("utf-8"), origin)
    except UnicodeDecodeError:
        raise OrchestratorError(f"{origin} holds no password: its first line is not UTF-8") from None


def _not_empty(password: str, origin: str) -> str:
    if not password:
        raise OrchestratorError(f"{origin} is empty", details="a network without a password is named with --open")
    return password


def _tell(args: argparse.Namespace, answer: Json, otherwise: str = "") -> int:
    """Print what the daemon says, or what it means where it says nothing."""
    if args.json:
        print_json(answer)
    elif message := answer.get("message"):
        print(wrapped(message))
    else:
        print(f"Session {answer['session']['id'][:8]}: {otherwise}.")
    return 0
