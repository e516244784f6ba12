"""The check of `doctor` for status messages that the running daemon could not read."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from pi_orchestrator.features.system.cli_finding import Finding

if TYPE_CHECKING:
    from pi_orchestrator.settings import Settings

CHECK = "messages"
MAX_NAMED = 3


def check_messages(settings: Settings, args: Namespace) -> Finding:
    """Ask the daemon on this machine for the topics that it cannot read; not checked if it does not run."""
    from pi_orchestrator.cli import client
    from pi_orchestrator.core.errors import OrchestratorError

    listen = settings.http.listen[0]
    if not listen.port:
        return Finding(CHECK, "ok", "not checked: http.listen has no fixed port")
    local = Namespace(url=listen.url, config=args.config, state_dir=args.state_dir)
    try:
        unreadable = client.connect(local).get("/api/v1/devices", limit=1)["unreadable"]
    except client.UnreachableError:
        return Finding(CHECK, "ok", f"not checked: no daemon responds at {listen.url}")
    except (OrchestratorError, KeyError, TypeError) as error:
        remedy = "run this with sudo, or set PIORCH_API_KEY"
        return Finding(CHECK, "warn", f"not checked: {getattr(error, 'message', 'unexpected response')}", remedy)
    if not unreadable:
        return Finding(CHECK, "ok", "the daemon can read the status messages of all cameras")
    texts = [f"{topic.get('mac_address') or 'an unknown device'} {topic['text']}" for topic in unreadable[:MAX_NAMED]]
    more = f"; and {len(unreadable) - MAX_NAMED} more topics" if len(unreadable) > MAX_NAMED else ""
    return Finding(
        CHECK,
        "warn",
        "; ".join(texts) + more,
        "correct the firmware; see the messages with: mosquitto_sub -t 'camera/status/#' -v",
    )
