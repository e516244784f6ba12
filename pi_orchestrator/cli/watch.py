"""`scan --watch`: scans again and again and tells what changes, until Ctrl-C."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from pi_orchestrator.cli.device_text import device_table, remarks
from pi_orchestrator.cli.output import StatusLine, columns, print_json_line, table
from pi_orchestrator.cli.scan import count_here, find_footing, means_own_network, sweep, views
from pi_orchestrator.errors import NetworkError

if TYPE_CHECKING:
    from pi_orchestrator.domain.mac import Mac
    from pi_orchestrator.domain.registry import Change
    from pi_orchestrator.settings import Settings
    from pi_orchestrator.workers.survey import Survey

TICK_S = 0.25
KERNEL_VOUCHES_S = 15.0
"""The kernel asks nobody again of whom it is sure, for up to three times as long."""


async def watch(settings: Settings, args: argparse.Namespace) -> int:
    """Tell what changes until SIGINT or SIGTERM, then 0."""
    import asyncio
    import signal

    from pi_orchestrator.app.survey import surveying

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with surveying(settings, own_network=means_own_network(args)) as survey:
        await find_footing(survey)
        tasks = [
            asyncio.create_task(stop.wait(), name="stop"),
            asyncio.create_task(survey.scanner.run(lambda: None), name="scanner"),
            asyncio.create_task(_Watch(survey, args).run(), name="watch"),
        ]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()  # a reader who has gone is told by the error
    return 0


class _Watch:
    """The scans, and what has been told of them."""

    def __init__(self, survey: Survey, args: argparse.Namespace) -> None:
        self._survey = survey
        self._interval_s: float = args.watch
        self._timeout_s: float | None = args.timeout
        self._json: bool = args.json
        # The first scan is told as a table: what is in it is no news any more.
        self._introduced: bool = args.json
        self._told: set[Mac] = set()
        self._trouble = ""
        self._line = StatusLine()

    async def run(self) -> None:
        await self._survey.vendors.load()
        clock = self._survey.clock
        try:
            while True:
                due = clock.monotonic() + self._interval_s
                await self._scan()
                while True:
                    self._tell_changes()
                    left_s = due - clock.monotonic()
                    if left_s <= 0:
                        break
                    await clock.sleep(min(TICK_S, left_s))
        finally:
            self._line.clear()

    async def _scan(self) -> None:
        from pi_orchestrator.domain.presence import Windows

        scanner = self._survey.scanner
        interval_s = max(self._interval_s, KERNEL_VOUCHES_S if scanner.engine == "neighbour" else 0.0)
        self._survey.registry.windows = Windows(interval_s, interval_s, interval_s)
        try:
            await sweep(self._survey, self._timeout_s)
        except NetworkError as error:
            await scanner.look()
            self._tell_trouble(scanner.reason or error.message)
        else:
            self._tell_trouble("")

    def _introduce(self) -> None:
        from pi_orchestrator.domain.registry import Kind

        self._introduced = True
        devices = views(self._survey)
        if devices:
            print(device_table(devices))
        for remark in remarks(devices):
            print(remark)
        here = count_here(self._survey)
        scanner = self._survey.scanner
        print(f"{here or 'Nobody'} found; scanning again every {self._interval_s:g} s, by {scanner.choice}", flush=True)
        self._told = {change.mac for change in self._survey.registry.drain() if change.kind is Kind.FOUND}

    def _tell_changes(self) -> None:
        registry = self._survey.registry
        if not self._introduced:
            self._introduce()
        registry.settle(self._survey.clock.monotonic())
        for change in registry.drain():
            event = self._event(change)
            if event:
                self._tell(event, change)
        now = self._survey.clock.wall().astimezone()
        self._line.show(f"{now:%H:%M:%S}  {count_here(self._survey)} here. Ctrl-C ends.")

    def _event(self, change: Change) -> str | None:
        """What it is called, or None where it is no news."""
        from pi_orchestrator.domain.presence import HERE, Presence
        from pi_orchestrator.domain.registry import Kind

        if change.kind is Kind.FOUND:
            self._told.add(change.mac)
        if change.kind is not Kind.STATE:
            return change.kind.value
        if change.mac not in self._told or change.before is None:
            return None
        if change.after is Presence.FLAPPING:
            return "flapping"
        was, is_here = change.before in HERE, change.after in HERE
        return None if was == is_here else "back" if is_here else "gone"

    def _tell(self, event: str, change: Change) -> None:
        if self._json:
            self._write(event, self._fields(change))
        else:
            self._print(_WORDS.get(event, event), f"{change.mac}  {self._words(change)}")

    def _fields(self, change: Change) -> dict[str, Any]:
        device = self._survey.registry.get(change.mac)
        fields = {
            "mac_address": change.mac,
            "ip_address": str(change.ip or (device.address if device else None) or ""),
            "previous_ip_address": str(change.previous_ip) if change.previous_ip else None,
            "mac_addresses": list(change.macs) or None,
            "ip_addresses": [str(one) for one in change.ips] or None,
            "vendor": self._survey.vendors.name(change.mac) or "",
            "likely_camera": self._survey.is_likely(device) if device else None,
        }
        return {name: value for name, value in fields.items() if value is not None}

    def _words(self, change: Change) -> str:
        from pi_orchestrator.domain.registry import Kind

        if change.kind is Kind.MOVED:
            return f"{change.previous_ip} → {change.ip}"
        if change.macs:
            return f"at {change.ip} with {', '.join(mac for mac in change.macs if mac != change.mac)}"
        if change.ips:
            return ", ".join(map(str, change.ips))
        fields = self._fields(change)
        camera = "camera?" if fields.get("likely_camera") else ""
        return " ".join(word for word in (fields["ip_address"], fields["vendor"], camera) if word)

    def _tell_trouble(self, reason: str) -> None:
        if reason == self._trouble:
            return
        self._trouble = reason
        if self._json:
            self._write("waiting" if reason else "scanning", {"message": reason} if reason else {})
        else:
            self._print("waiting" if reason else "scanning", reason or f"again, by {self._survey.scanner.choice}")

    def _write(self, event: str, fields: dict[str, Any]) -> None:
        from pi_orchestrator.clock import rfc3339

        print_json_line({"at": rfc3339(self._survey.clock.wall()), "event": event, **fields})

    def _print(self, event: str, text: str) -> None:
        self._line.clear()
        now = self._survey.clock.wall().astimezone()
        print(table((f"{now:%H:%M:%S}", f"{event:<9}", text), (), width=columns()), flush=True)


_WORDS = {"multiple_addresses": "addresses", "conflict_resolved": "resolved", "answers_for_many": "proxy"}
