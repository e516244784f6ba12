"""Devices as text: a table, remarks below it, and a card with details. Input: device objects of the API."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pi_orchestrator.cli.output import age, columns, moment, table, wrapped

WIDE = 100
"""Minimum terminal width for the NAME column."""
MAX_UNREADABLE = 10
HEADERS: tuple[str, ...] = ("MAC", "ADDRESS", "VENDOR", "SIGNAL", "SOURCES", "STATE")
_VENDOR, _SOURCES = 2, 4
"""Indexes in HEADERS of the columns that are shortened on a narrow terminal."""
_SHORT_SOURCES = {"neighbour": "neigh", "station": "wifi", "lease": "dhcp", "probe": "http", "record": "past"}
Row = dict[str, Any]


def device_table(devices: Sequence[Row]) -> str:
    """A table with one row per device, no wider than the terminal."""
    headers, rows = HEADERS, [_row(device) for device in devices]
    if columns() >= WIDE and any(device["hostname"] for device in devices):
        headers = (*HEADERS, "NAME")
        rows = [(*row, device["hostname"]) for row, device in zip(rows, devices, strict=True)]
    return table(headers, rows, shrink=(_VENDOR, _SOURCES))


def remarks(devices: Sequence[Row]) -> Iterator[str]:
    """Sentences below the table: contested addresses, the notes of devices, and devices with several addresses."""
    contested: dict[str, set[str]] = {}
    for device in devices:
        if device["conflict"]:
            contested.setdefault(device["ip_address"], set()).update((device["mac_address"], *device["conflict"]))
    for address, macs in contested.items():
        yield wrapped(f"Conflict: {address} is claimed by {' and '.join(sorted(macs))}; it is assigned to no device.")
    for device in devices:
        for note in device["notes"]:
            yield wrapped(f"{device['mac_address']}: {note}.")
        if len(device["ip_addresses"]) > 1:
            yield wrapped(f"{device['mac_address']} has several addresses: {', '.join(device['ip_addresses'])}.")


def unreadable_remarks(topics: Sequence[Row]) -> Iterator[str]:
    """Sentences about status messages that could not be read; cameras that send them may be missing in the table."""
    for topic in topics[:MAX_UNREADABLE]:
        sender = topic.get("mac_address") or "An unknown device"
        yield wrapped(f"{sender} {topic['text']} ({topic['count']} times, last {moment(topic['last_seen'])}).")
    if len(topics) > MAX_UNREADABLE:
        yield f"… and {len(topics) - MAX_UNREADABLE} more topics that cannot be read."


def card(device: Row) -> str:
    """One device with its evidence."""
    fields = {
        "mac": f"{device['mac_address']}{' (locally administered)' if device['locally_administered'] else ''}",
        "address": ", ".join(device["ip_addresses"]) or device["ip_address"],
        "state": state(device),
        "registered": "yes" if device["registered"] else "no",
        "name": device["hostname"],
        "device id": device.get("device_id"),
        "firmware": device.get("firmware_version"),
        "vendor": device["vendor"],
        "signal": _signal(device["signal_strength"]),
        "first seen": moment(device.get("first_seen")),
        "last seen": moment(device.get("last_seen")),
        "adjacent MACs": ", ".join(device["near"]),
    }
    evidence = [
        (report["source"], age(report["age_seconds"]), report.get("ip_address"), _detail(report))
        for report in device["evidence"]
    ]
    parts = [table(("FIELD", "VALUE"), [(name, value) for name, value in fields.items() if value])]
    parts += [*remarks([device]), "", wrapped(f"Why: {device['why']}."), ""]
    parts.append(table(("SOURCE", "AGE", "ADDRESS", "DETAIL"), evidence) if evidence else "No evidence.")
    return "\n".join(parts)


def state(device: Row) -> str:
    """The state of a device, and whether it is or may be a camera."""
    camera = " camera" if device.get("is_camera") else " camera?" if device.get("likely_camera") else ""
    return f"{device['status']}{camera}"


def _row(device: Row) -> tuple[object, ...]:
    return (
        device["mac_address"],
        device["ip_address"],
        device["vendor"] or ("(random)" if device["locally_administered"] else None),
        device["signal_strength"] or None,
        ",".join(_SHORT_SOURCES.get(report["source"], report["source"]) for report in device["evidence"]),
        state(device),
    )


def _signal(dbm: int) -> str | None:
    return f"{dbm} dBm" if dbm else None


def _detail(report: Row) -> str:
    parts = (report.get("host_name"), _signal(report.get("signal_strength") or 0), report.get("detail"))
    suffix = "" if report["proves_life"] else " (no proof of life)"
    return ", ".join(part for part in parts if part) + suffix
