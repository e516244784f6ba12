"""`scan --watch`: scans repeatedly and prints changes, until Ctrl-C."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from pi_orchestrator.cli.output import StatusLine, columns, print_json_line, table
from pi_orchestrator.core.errors import NetworkError
from pi_orchestrator.features.discovery.cli_sweep import count_present, require_scanner, sweep, uses_own_network, views
from pi_orchestrator.features.discovery.cli_text import device_table, remarks

if TYPE_CHECKING:
    from pi_orchestrator.core.mac import Mac
    from pi_orchestrator.features.devices.changes import Change
    from pi_orchestrator.features.discovery.standalone import StandaloneScan
    from pi_orchestrator.settings import Settings

TICK_S = 0.25
KERNEL_RECHECK_S = 15.0
"""With the engine `neighbour`, silence is measured as if scans were at least this far apart.

A device is gone after four intervals of silence; this must be longer than the 45 s for which the kernel may not probe a
confirmed neighbour again.
"""


async def watch(settings: Settings, args: argparse.Namespace) -> int:
    """Print changes until SIGINT or SIGTERM; returns exit code 0."""
    import asyncio
    import signal

    from pi_orchestrator.features.discovery.standalone import open_standalone_scan

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with open_standalone_scan(settings, own_network=uses_own_network(args)) as standalone:
        await require_scanner(standalone)
        tasks = [
            asyncio.create_task(stop.wait(), name="stop"),
            asyncio.create_task(standalone.scanner.run(lambda: None), name="scanner"),
            asyncio.create_task(_Watch(standalone, args).run(), name="watch"),
        ]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()  # raises BrokenPipeError if the reader has closed the output
    return 0


class _Watch:
    """Scans, and prints each change once."""

    def __init__(self, standalone: StandaloneScan, args: argparse.Namespace) -> None:
        self._standalone = standalone
        self._interval_s: float = args.watch
        self._timeout_s: float | None = args.timeout
        self._json: bool = args.json
        # The first scan is printed as a table; devices in it are not printed as changes.
        self._table_printed: bool = args.json
        # Devices that were printed as found: only these are printed as gone or back.
        self._found: set[Mac] = set()
        self._error = ""
        self._line = StatusLine()

    async def run(self) -> None:
        await self._standalone.vendors.load()
        clock = self._standalone.clock
        try:
            while True:
                next_scan_at = clock.monotonic() + self._interval_s
                await self._scan()
                while True:
                    self._report_changes()
                    left_s = next_scan_at - clock.monotonic()
                    if left_s <= 0:
                        break
                    await clock.sleep(min(TICK_S, left_s))
        finally:
            self._line.clear()

    async def _scan(self) -> None:
        from pi_orchestrator.features.devices.model import Windows

        scanner = self._standalone.scanner
        interval_s = max(self._interval_s, KERNEL_RECHECK_S if scanner.engine == "neighbour" else 0.0)
        self._standalone.registry.windows = Windows(interval_s, interval_s, interval_s)
        try:
            await sweep(self._standalone, self._timeout_s)
        except NetworkError as error:
            await scanner.refresh_link()
            self._report_error(scanner.unavailable_reason or error.message)
        else:
            self._report_error("")

    def _print_table(self) -> None:
        from pi_orchestrator.features.devices.changes import Kind

        self._table_printed = True
        devices = views(self._standalone)
        if devices:
            print(device_table(devices))
        for remark in remarks(devices):
            print(remark)
        present = count_present(self._standalone)
        scanner = self._standalone.scanner
        print(
            f"{present or 'No devices'} found; scanning every {self._interval_s:g} s; engine: {scanner.choice_reason}",
            flush=True,
        )
        self._found = {change.mac for change in self._standalone.registry.drain() if change.kind is Kind.FOUND}

    def _report_changes(self) -> None:
        registry = self._standalone.registry
        if not self._table_printed:
            self._print_table()
        registry.expire(self._standalone.clock.monotonic())
        for change in registry.drain():
            event = self._event(change)
            if event:
                self._report(event, change)
        now = self._standalone.clock.wall().astimezone()
        self._line.show(f"{now:%H:%M:%S}  {count_present(self._standalone)} present. Press Ctrl-C to stop.")

    def _event(self, change: Change) -> str | None:
        """The name of the event; None if the change is not printed."""
        from pi_orchestrator.features.devices.changes import Kind
        from pi_orchestrator.features.devices.model import PRESENT_STATES, Presence

        if change.kind is Kind.FOUND:
            self._found.add(change.mac)
        if change.kind is not Kind.STATE:
            return change.kind.value
        if change.mac not in self._found or change.before is None:
            return None
        if change.after is Presence.FLAPPING:
            return "flapping"
        was_present, is_present = change.before in PRESENT_STATES, change.after in PRESENT_STATES
        return None if was_present == is_present else "back" if is_present else "gone"

    def _report(self, event: str, change: Change) -> None:
        if self._json:
            self._write(event, self._fields(change))
        else:
            self._print(_SHORT_EVENTS.get(event, event), f"{change.mac}  {self._describe(change)}")

    def _fields(self, change: Change) -> dict[str, Any]:
        device = self._standalone.registry.get(change.mac)
        fields = {
            "mac_address": change.mac,
            "ip_address": str(change.ip or (device.address if device else None) or ""),
            "previous_ip_address": str(change.previous_ip) if change.previous_ip else None,
            "mac_addresses": list(change.macs) or None,
            "ip_addresses": [str(ip) for ip in change.ips] or None,
            "vendor": self._standalone.vendors.name(change.mac) or "",
            "likely_camera": self._standalone.looks_like_camera(device) if device else None,
        }
        return {name: value for name, value in fields.items() if value is not None}

    def _describe(self, change: Change) -> str:
        from pi_orchestrator.features.devices.changes import Kind

        if change.kind is Kind.MOVED:
            return f"{change.previous_ip} → {change.ip}"
        if change.macs:
            return f"at {change.ip} with {', '.join(mac for mac in change.macs if mac != change.mac)}"
        if change.ips:
            return ", ".join(map(str, change.ips))
        fields = self._fields(change)
        camera = "camera?" if fields.get("likely_camera") else ""
        return " ".join(part for part in (fields["ip_address"], fields["vendor"], camera) if part)

    def _report_error(self, reason: str) -> None:
        """Print why scans fail or, for an empty `reason`, that they work again; nothing while `reason` is unchanged."""
        if reason == self._error:
            return
        self._error = reason
        if self._json:
            self._write("waiting" if reason else "scanning", {"message": reason} if reason else {})
        else:
            self._print(
                "waiting" if reason else "scanning",
                reason or f"again; engine: {self._standalone.scanner.choice_reason}",
            )

    def _write(self, event: str, fields: dict[str, Any]) -> None:
        from pi_orchestrator.core.clock import rfc3339

        print_json_line({"at": rfc3339(self._standalone.clock.wall()), "event": event, **fields})

    def _print(self, event: str, text: str) -> None:
        self._line.clear()
        now = self._standalone.clock.wall().astimezone()
        print(table((f"{now:%H:%M:%S}", f"{event:<9}", text), (), width=columns()), flush=True)


_SHORT_EVENTS = {"multiple_addresses": "addresses", "conflict_resolved": "resolved", "answers_for_many": "proxy"}
"""Labels for events whose name does not fit in the column."""
