"""`sessions`: parser of all verbs, and the verbs that change a session."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pi_orchestrator.cli.connection import connect
from pi_orchestrator.cli.options import add_client
from pi_orchestrator.cli.output import print_json, wrapped
from pi_orchestrator.features.provisioning.cli_list import history, list_devices, recoverable, show_session
from pi_orchestrator.features.provisioning.cli_session import BATCH, SESSIONS, find_session_id
from pi_orchestrator.features.provisioning.cli_start import STEPS, start_session

if TYPE_CHECKING:
    from pi_orchestrator.cli.client import Client
    from pi_orchestrator.cli.options import Subparsers

    Json = dict[str, Any]

WAIT_HELP = "watch until the camera is verified or has failed; exit code 1 if it failed"
STATES = ("discovered", "provisioning", "provisioned", "verifying", "verified", "failed")


def add_parser(subparsers: Subparsers) -> None:
    """Add `sessions` and its verbs."""
    parser = subparsers.add_parser(
        "sessions",
        help="provision many cameras in a session",
        description="Provision many cameras in a session. A camera is identified by its MAC, which can be copied: a"
        " camera that answers differently than when it was first seen is marked, and waits for `sessions confirm` if"
        " provisioning.confirm_changed is set. Most verbs take an optional SESSION: an id or its"
        " first characters. It can be omitted if exactly one session is open.",
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    _add_start(verbs)
    show = _add_session_verb(verbs, "show", show_session, "show a session")
    _add_watch(show)
    devices = _add_session_verb(verbs, "devices", list_devices, "list the cameras of a session")
    devices.add_argument("--state", choices=STATES, metavar="STATE", help=f"one of: {', '.join(STATES)}")
    all_cameras = _add_session_verb(
        verbs,
        "provision-all",
        provision_all,
        "provision every camera that is on the allowlist",
        details="; exit code 1 if a camera fails, 130 after Ctrl-C (the session continues)",
    )
    all_cameras.add_argument("--no-wait", action="store_true", help="start provisioning and exit, do not watch")
    for name, help_text in (
        ("provision", "provision one camera"),
        ("retry", "retry a camera that has failed"),
        ("confirm", "confirm a camera that has changed since it was first seen, and provision it"),
        ("skip", "stop provisioning a camera and count it as failed"),
    ):
        verb = _add_session_verb(verbs, name, change_device, help_text, has_mac=True)
        if name != "skip":
            verb.add_argument("--wait", action="store_true", help=WAIT_HELP)
        if name == "confirm":
            verb.add_argument(
                "--changes-id",
                metavar="ID",
                help="confirm the changes with this id, without a prompt; `sessions devices --json` prints it",
            )
    _add_session_verb(verbs, "pause", pause, "pause a session: finish running steps, start nothing new")
    _add_watch(_add_session_verb(verbs, "resume", resume, "resume a session, also after a restart of the daemon"))
    _add_session_verb(
        verbs, "close", close, "end a session: wait up to 30 s for running steps, then erase its password"
    )
    _add_session_verb(verbs, "discard", discard, "end a session: cancel running steps and erase its password")
    _add_verb(
        verbs, "recoverable", recoverable, "list sessions that a restart has interrupted, to resume or discard them"
    )
    ended = _add_verb(verbs, "history", history, "list closed sessions, newest first")
    ended.add_argument("--limit", type=int, default=20, metavar="N", help="maximum number (default: %(default)s)")


def _add_start(verbs: Subparsers) -> None:
    start = _add_verb(
        verbs,
        "start",
        start_session,
        "open a session",
        details=". Its cameras are sent the credentials of the target network: --ssid, or the network in the"
        " configuration. The password of --ssid is prompted for, or read from a file or stdin. It cannot be an"
        " argument, because other users of this machine can see arguments",
    )
    start.add_argument(
        "--ssid", metavar="NAME", help="target network (default: provisioning.target_ssid and its password)"
    )
    # start_session checks that only one is given; an argparse group would make the usage line too long.
    start.add_argument(
        "--password-file", metavar="FILE", help="file whose first line is the password of the target network"
    )
    start.add_argument("--password-stdin", action="store_true", help="read that password from the first line of stdin")
    start.add_argument("--open", action="store_true", help="the target network has no password")
    start.add_argument("--interface", metavar="NAME", help="interface of the camera network (default: as configured)")
    for step in STEPS:
        start.add_argument(f"--{step}-timeout", type=int, metavar="S", help=f"timeout of {step}, in seconds")


def _add_watch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--watch", action="store_true", help="watch until no camera is in progress; exit code 1 if one fails"
    )


def _add_session_verb(
    verbs: Subparsers,
    name: str,
    function: Callable[[argparse.Namespace], int],
    help_text: str,
    *,
    details: str = "",
    has_mac: bool = False,
) -> argparse.ArgumentParser:
    """Add a verb with a session argument, and a camera argument if `has_mac`."""
    verb = _add_verb(verbs, name, function, help_text, details=details)
    if has_mac:
        verb.add_argument("mac", metavar="MAC", help="MAC in any format")
    verb.add_argument(
        "session", nargs="?", metavar="SESSION", help="id or its first characters (default: the open session)"
    )
    return verb


def _add_verb(
    verbs: Subparsers, name: str, function: Callable[[argparse.Namespace], int], help_text: str, *, details: str = ""
) -> argparse.ArgumentParser:
    """Add a verb; its description is the help text as a sentence, with `details` before the full stop."""
    description = f"{help_text[0].upper()}{help_text[1:]}{details}."
    verb = verbs.add_parser(name, help=help_text, description=description)
    add_client(verb)
    verb.set_defaults(func=function)
    return verb


def provision_all(args: argparse.Namespace) -> int:
    """Provision every allowlisted camera, and watch unless `--no-wait`."""
    client = connect(args)
    session_id = find_session_id(client, args.session)
    answer = client.post(f"{BATCH}/{session_id}/provision-all", {"only_allowlisted": True})
    if not args.no_wait:
        return _watch(client, session_id, args)
    return _print_answer(args, answer)


def change_device(args: argparse.Namespace) -> int:
    """Provision, retry, confirm or skip a camera."""
    client = connect(args)
    session_id = find_session_id(client, args.session)
    if args.verb == "confirm":
        from pi_orchestrator.features.provisioning.cli_confirm import confirm

        answer = confirm(client, session_id, args)
    else:
        answer = client.post(f"{BATCH}/{session_id}/devices/{quote(args.mac, safe='')}/{args.verb}")
    if getattr(args, "wait", False):
        return _watch(client, session_id, args, macs=[answer["mac"]])
    return _print_answer(args, answer)


def pause(args: argparse.Namespace) -> int:
    """Pause a session."""
    client = connect(args)
    answer = client.post(f"{BATCH}/{find_session_id(client, args.session)}/pause")
    return _print_answer(args, answer, "paused; running steps finish, nothing new is started")


def resume(args: argparse.Namespace) -> int:
    """Resume a session that is paused, or that a restart interrupted."""
    client = connect(args)
    session_id = find_session_id(client, args.session)
    interrupted = client.get(f"{BATCH}/{session_id}")["session"].get("interrupted")
    answer = client.post(f"{SESSIONS if interrupted else BATCH}/{session_id}/resume")
    if args.watch:
        return _watch(client, session_id, args)
    return _print_answer(args, answer, "resumed")


def close(args: argparse.Namespace) -> int:
    """Close a session."""
    client = connect(args)
    answer = client.post(f"{BATCH}/{find_session_id(client, args.session)}/close")
    return _print_answer(args, answer, "closed")


def discard(args: argparse.Namespace) -> int:
    """Discard a session."""
    client = connect(args)
    session_id = find_session_id(client, args.session)
    client.delete(f"{SESSIONS}/{session_id}")
    print_json({"discarded": session_id}) if args.json else print(f"Session {session_id} discarded.")
    return 0


def _watch(client: Client, session_id: str, args: argparse.Namespace, *, macs: list[str] | None = None) -> int:
    from pi_orchestrator.features.provisioning.cli_watch import watch

    return watch(client, session_id, macs=macs or (), as_json=args.json)


def _print_answer(args: argparse.Namespace, answer: Json, default: str = "") -> int:
    """Print the daemon's message, or `default` if there is none."""
    if args.json:
        print_json(answer)
    elif message := answer.get("message"):
        print(wrapped(message))
    else:
        print(f"Session {answer['session']['id'][:8]}: {default}.")
    return 0
