"""`doctor`: check this machine, and print how to fix each problem."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from pi_orchestrator.cli.options import add_config, load_settings
from pi_orchestrator.cli.output import print_json, wrapped
from pi_orchestrator.features.system.cli_finding import Finding

if TYPE_CHECKING:
    from pi_orchestrator.cli.options import Subparsers
    from pi_orchestrator.settings import Loaded, Settings

MIN_FREE_MIB = 200


def add_parser(subparsers: Subparsers) -> None:
    """Add `doctor`."""
    parser = subparsers.add_parser(
        "doctor",
        help="check this machine, and show how to fix problems",
        description="Check this machine, and show how to fix problems. Needs no running daemon. If the daemon runs,"
        " its list of devices is checked too: for shared names and for unreadable messages. Exit code 1 if a check"
        " fails.",
    )
    add_config(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(func=doctor)


def doctor(args: argparse.Namespace) -> int:
    """Run all checks, those of overrides and retired settings too, and print the findings; 1 if a check failed."""
    loaded = load_settings(args)
    findings = [*examine(loaded.settings), _check_overrides(loaded), _check_retired(loaded)]
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
    """Run the checks that need only the settings, in the order in which an operator fixes problems."""
    import asyncio

    from pi_orchestrator.core.logging import configure
    from pi_orchestrator.features.system.doctor_broker import examine_broker
    from pi_orchestrator.features.system.doctor_daemon import examine_daemon
    from pi_orchestrator.features.system.doctor_network import examine_network
    from pi_orchestrator.features.system.doctor_state import check_state_dir

    configure(level="error", style="auto")
    yield from asyncio.run(examine_network(settings))
    yield from examine_broker(settings)
    checks: tuple[Callable[[Settings], Finding], ...] = (
        _check_clock,
        check_state_dir,
        _check_disk,
        _check_ports,
        _check_dashboard,
        _check_onboarding,
    )
    for check in checks:
        yield check(settings)
    yield from examine_daemon(settings)


def _check_clock(_settings: Settings) -> Finding:
    from pi_orchestrator.core.clock import Clock

    clock = Clock()
    clock.refresh()
    if clock.trusted():
        return Finding("clock", "ok", "synchronized")
    return Finding(
        "clock",
        "warn",
        "not synchronized: times may be wrong, and nothing is deleted by age",
        "check: timedatectl status",
    )


def _check_disk(settings: Settings) -> Finding:
    folder = settings.storage.state_dir
    existing = folder if folder.exists() else next(path for path in folder.parents if path.exists())
    free_mib = shutil.disk_usage(existing).free // 2**20
    if free_mib < MIN_FREE_MIB:
        return Finding("disk", "fail", f"{free_mib} MiB free at {existing}", f"free at least {MIN_FREE_MIB} MiB")
    return Finding("disk", "ok", f"{free_mib} MiB free at {existing}")


def _check_ports(settings: Settings) -> Finding:
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
                        f"find the process: ss -ltnp 'sport = :{listen.port}'",
                    )
                return Finding("ports", "fail", f"cannot listen on {listen}: {error.strerror}", "change http.listen")
    return Finding("ports", "ok", f"{', '.join(map(str, settings.http.listen))} free")


def _check_dashboard(settings: Settings) -> Finding:
    from pi_orchestrator.console.dashboard_folder import DashboardFolder
    from pi_orchestrator.core.clock import Clock

    root = settings.http.dashboard_dir
    if root is None:
        return Finding("dashboard", "ok", "none configured (http.dashboard_dir): the daemon serves its own page")
    reason = DashboardFolder(root, clock=Clock()).unavailable_reason()
    if reason:
        return Finding(
            "dashboard",
            "warn",
            f"the daemon serves its own page: {reason}",
            "copy a built dashboard there, readable by the daemon's user, or correct http.dashboard_dir",
        )
    if root.is_relative_to("/home") or root.is_relative_to("/root"):
        return Finding(
            "dashboard", "warn", f"the systemd unit cannot read {root} (ProtectHome)", "move it below /opt or /srv"
        )
    return Finding("dashboard", "ok", f"served from {root}")


def _check_onboarding(settings: Settings) -> Finding:
    auto = settings.auto_onboard
    if auto.mode == "off":
        return Finding("onboarding", "ok", "auto-onboarding is off (auto_onboard.mode)")
    return Finding(
        "onboarding",
        "warn",
        "auto_onboard.mode is 'dev': every camera on the network can be onboarded",
        "set it to 'off' in production",
    )


def _check_retired(loaded: Loaded) -> Finding:
    if not loaded.warnings:
        return Finding("settings", "ok", "no retired settings are set")
    warnings = "; ".join(str(warning) for warning in loaded.warnings)
    return Finding("settings", "warn", warnings, "remove these keys; remove overrides only while the daemon is stopped")


def _check_overrides(loaded: Loaded) -> Finding:
    overrides = loaded.overrides
    if overrides.fault:
        remedy = "run as the daemon's user or with sudo; the daemon moves a damaged file aside at its next start"
        return Finding("overrides", "warn", f"{overrides.file} {overrides.fault}", remedy)
    active = ", ".join(loaded.active_overrides) or "none"
    if loaded.ignored:
        what = f"in effect: {active}; not in effect: {'; '.join(loaded.ignored.values())}"
        remedy = f"pi-orchestrator config reset KEY, or remove it from {overrides.file} while the daemon is stopped"
        return Finding("overrides", "warn", what, remedy)
    return Finding("overrides", "ok", f"in effect: {active}")
