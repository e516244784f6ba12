"""`doctor`: what is missing on this machine, and how to mend it."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from pi_orchestrator.cli.options import add_config, load_settings
from pi_orchestrator.cli.output import print_json, wrapped

if TYPE_CHECKING:
    from pi_orchestrator.cli.options import Subparsers
    from pi_orchestrator.settings import Loaded, Settings

MIN_FREE_MIB = 200


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: `ok`, `warn` (works, but) or `fail`, and the remedy where there is one."""

    check: str
    result: str
    what: str
    remedy: str = ""


def add_parser(subparsers: Subparsers) -> None:
    """Add `doctor`."""
    parser = subparsers.add_parser(
        "doctor",
        help="check this machine: what is missing, and how to mend it",
        description="Needs no running daemon. Exit code 1 if a check fails.",
    )
    add_config(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(func=doctor)


def doctor(args: argparse.Namespace) -> int:
    """Run every check."""
    loaded = load_settings(args)
    findings = [*examine(loaded.settings), _overrides(loaded)]
    if args.json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            print(_entry(f"{finding.result.upper():4}  {finding.check:11} ", finding.what))
            if finding.remedy:
                print(_entry(f"{'':18}→ ", finding.remedy))
    return 1 if any(finding.result == "fail" for finding in findings) else 0


def _entry(head: str, text: str) -> str:
    return head + wrapped(text, indent=" " * len(head)).lstrip()


def examine(settings: Settings) -> Iterator[Finding]:
    """Every check, in the order in which a person would mend things."""
    import asyncio

    from pi_orchestrator.cli.doctor_network import examine_network
    from pi_orchestrator.logs import configure

    configure(level="error", style="auto")
    yield from asyncio.run(examine_network(settings))
    checks: tuple[Callable[[Settings], Finding], ...] = (
        _broker,
        _clock,
        _state_dir,
        _disk,
        _ports,
        _dashboard,
        _onboarding,
    )
    for check in checks:
        yield check(settings)


def _broker(settings: Settings) -> Finding:
    import socket
    from importlib.util import find_spec

    where = f"{settings.mqtt.host}:{settings.mqtt.port}"
    if settings.mqtt.embedded:
        if find_spec("amqtt") is None:
            return Finding(
                "broker", "fail", "mqtt.embedded needs a package that is not here", "install pi-orchestrator[demo]"
            )
        return Finding("broker", "ok", "embedded in the daemon")
    try:
        socket.create_connection((settings.mqtt.host, settings.mqtt.port), timeout=3).close()
    except OSError as error:
        return Finding(
            "broker",
            "fail",
            f"nothing answers at {where}: {error.strerror or error}",
            "sudo systemctl start mosquitto, or correct mqtt.host and mqtt.port",
        )
    return Finding("broker", "ok", f"answers at {where}")


def _clock(_settings: Settings) -> Finding:
    from pi_orchestrator.clock import Clock

    clock = Clock()
    clock.look()
    if clock.trusted():
        return Finding("clock", "ok", "set from the network")
    return Finding(
        "clock",
        "warn",
        "not set from the network: times may be wrong, nothing is deleted by age",
        "check: timedatectl status",
    )


def _state_dir(settings: Settings) -> Finding:
    import os

    folder = settings.storage.state_dir
    if not folder.exists():
        parent = next(path for path in folder.parents if path.exists())
        if os.access(parent, os.W_OK):
            return Finding("state", "ok", f"{folder} will be made at the first start")
        return Finding(
            "state",
            "fail",
            f"{folder} is not there and cannot be made by this user",
            "install with scripts/install.sh, or use --state-dir",
        )
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        return Finding(
            "state", "fail", f"{folder} is not writable for this user", "run as the daemon's user, or use --state-dir"
        )
    return Finding("state", "ok", f"{folder} is writable")


def _disk(settings: Settings) -> Finding:
    folder = settings.storage.state_dir
    existing = folder if folder.exists() else next(path for path in folder.parents if path.exists())
    free_mib = shutil.disk_usage(existing).free // 2**20
    if free_mib < MIN_FREE_MIB:
        return Finding("disk", "fail", f"{free_mib} MiB free at {existing}", f"free at least {MIN_FREE_MIB} MiB")
    return Finding("disk", "ok", f"{free_mib} MiB free at {existing}")


def _ports(settings: Settings) -> Finding:
    import errno
    import socket

    for listen in settings.http.listen:
        family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((listen.host, listen.port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    return Finding(
                        "ports",
                        "warn",
                        f"{listen} is in use (by the daemon, if it runs)",
                        f"see who: ss -ltnp 'sport = :{listen.port}'",
                    )
                return Finding("ports", "fail", f"cannot listen on {listen}: {error.strerror}", "change http.listen")
    return Finding("ports", "ok", f"{', '.join(map(str, settings.http.listen))} free")


def _dashboard(settings: Settings) -> Finding:
    from pi_orchestrator.api.dashboard_folder import DashboardFolder
    from pi_orchestrator.clock import Clock

    root = settings.http.dashboard_dir
    if root is None:
        return Finding("dashboard", "ok", "none configured: the daemon shows its own page (http.dashboard_dir)")
    trouble = DashboardFolder(root, clock=Clock()).trouble()
    if trouble:
        return Finding(
            "dashboard",
            "warn",
            f"the daemon shows its own page: {trouble}",
            "copy a built dashboard there, readable for the daemon's user, or correct http.dashboard_dir",
        )
    if root.is_relative_to("/home") or root.is_relative_to("/root"):
        return Finding(
            "dashboard", "warn", f"{root} is not seen by the systemd unit (ProtectHome)", "put it below /opt or /srv"
        )
    return Finding("dashboard", "ok", f"served from {root}")


def _onboarding(settings: Settings) -> Finding:
    auto = settings.auto_onboard
    if auto.mode == "off":
        return Finding("onboarding", "ok", "auto-onboarding is off (auto_onboard.mode)")
    return Finding(
        "onboarding",
        "warn",
        "auto_onboard.mode is 'dev': every camera on the network can be let in",
        "set it to 'off' in production",
    )


def _overrides(loaded: Loaded) -> Finding:
    found = loaded.overrides
    if found.fault:
        remedy = "run as the daemon's user or with sudo; what is damaged, the daemon sets aside at its next start"
        return Finding("overrides", "warn", f"{found.file} {found.fault}", remedy)
    in_force = ", ".join(path for path in found.values if path not in loaded.ignored) or "none"
    if loaded.ignored:
        what = f"in force: {in_force}; not in force: {'; '.join(loaded.ignored.values())}"
        remedy = f"pi-orchestrator config reset KEY, or take it out of {found.file} while the daemon is stopped"
        return Finding("overrides", "warn", what, remedy)
    return Finding("overrides", "ok", f"set while the daemon ran: {in_force}")
