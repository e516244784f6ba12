"""`sessions confirm`: accept that a camera answers differently than when it was first seen."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pi_orchestrator.cli.output import wrapped
from pi_orchestrator.core.error_codes import ErrorCode
from pi_orchestrator.core.errors import ArgumentsError, FieldError, NotFoundError, OrchestratorError
from pi_orchestrator.features.provisioning.cli_session import BATCH
from pi_orchestrator.features.provisioning.cli_view import changed_texts

if TYPE_CHECKING:
    from pi_orchestrator.cli.client import Client

    Json = dict[str, Any]


def confirm(client: Client, session_id: str, args: argparse.Namespace) -> Json:
    """Confirm the changes with `--changes-id`, or those that are accepted at the prompt; return the answer."""
    changes_id = args.changes_id or _accepted_id(_device(client, session_id, args.mac), is_for_script=args.json)
    path = f"{BATCH}/{session_id}/devices/{quote(args.mac, safe='')}/confirm"
    answer: Json = client.post(path, {"changes_id": changes_id})
    return answer


def _device(client: Client, session_id: str, mac_text: str) -> Json:
    from pi_orchestrator.core.mac import parse_mac

    try:
        mac = parse_mac(mac_text)
    except FieldError as error:
        raise ArgumentsError([f"MAC: {error}"]) from None
    devices: list[Json] = client.get(f"{BATCH}/{session_id}/devices")["devices"]
    for device in devices:
        if device["mac"] == mac:
            return device
    raise NotFoundError(f"{mac} is not in this session", code=ErrorCode.DEVICE_NOT_FOUND)


def _accepted_id(device: Json, *, is_for_script: bool) -> str:
    """Show the device's changes and ask whether to confirm them; OrchestratorError unless the answer is yes."""
    mac, changes_id = device["mac"], device.get("changes_id")
    if not changes_id:
        raise OrchestratorError(f"{mac} has not changed since it was first seen", details="nothing to confirm")
    if is_for_script or not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise ArgumentsError(
            ["--changes-id: required with --json or without a terminal; `sessions devices --json` prints it"]
        )
    lines = [f"{mac} answers differently than when it was first seen:"]
    lines += [wrapped(text, indent="  ") for text in changed_texts(device)]
    lines += [wrapped("A MAC can be copied. The device that answers now is sent the password of the target network.")]
    # On stderr, as the prompt for a password: stdout may be a pipe.
    print(*lines, "Is it your camera? [y/N] ", sep="\n", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise OrchestratorError(f"{mac} is not confirmed, so it is not sent the password")
    return str(changes_id)
