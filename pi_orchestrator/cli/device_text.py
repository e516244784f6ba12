"""Devices as text: the table, what does not fit into it, and the card of one. They come as the API tells them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pi_orchestrator.cli.output import columns, table, wrapped

WIDE = 100
"""From this width on there is room for names too."""
HEADERS: tuple[str, ...] = ("MAC", "ADDRESS", "VENDOR", "SIGNAL", "SOURCES", "STATE")
_VENDOR, _SOURCES = 2, 4
_SHORT = {"neighbour": "neigh", "station": "wifi", "lease": "dhcp", "probe": "http", "record": "past"}
Row = dict[str, Any]


def device_table(devices: Sequence[Row]) -> str:
    """A line for each, in at most the terminal's width."""
    headers, rows = HEADERS, [_row(device) for device in devices]
    if columns() >= WIDE and any(device["hostname"] for device in devices):
        headers = (*HEADERS, "NAME")
        rows = [(*row, device["hostname"]) for row, device in zip(rows, devices, strict=True)]
    return table(headers, rows, shrink=(_VENDOR, _SOURCES))


def remarks(devices: Sequence[Row]) -> Iterator[str]:
    """What the table has no column for, in sentences: contested addresses, and devices with several."""
    contested: dict[str, set[str]] = {}
    for device in devices:
        if device["conflict"]:
            contested.setdefault(device["ip_address"], set()).update((device["mac_address"], *device["conflict"]))
    for address, macs in contested.items():
        yield wrapped(f"Conflict: {address} is answered for by {' and '.join(sorted(macs))}; it counts as nobody's.")
    for device in devices:
        if len(device["ip_addresses"]) > 1:
            yield wrapped(f"{device['mac_address']} has several addresses: {', '.join(device['ip_addresses'])}.")


def card(device: Row) -> str:
    """One device with the evidence for what is said of it."""
    fields = {
        "mac": f"{device['mac_address']}{' (made up by the device)' if device['locally_administered'] else ''}",
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
        "near MACs": ", ".join(device["near"]),
    }
    evidence = [
        (one["source"], age(one["age_seconds"]), one.get("ip_address"), _detail(one)) for one in device["evidence"]
    ]
    parts = [table(("FIELD", "VALUE"), [(name, value) for name, value in fields.items() if value])]
    parts += [*remarks([device]), "", wrapped(f"Why: {device['why']}."), ""]
    parts.append(table(("SOURCE", "AGE", "ADDRESS", "DETAIL"), evidence) if evidence else "There is no evidence.")
    return "\n".join(parts)


def state(device: Row) -> str:
    """Its state, and whether it is or may be a camera."""
    camera = " camera" if device.get("is_camera") else " camera?" if device.get("likely_camera") else ""
    return f"{device['status']}{camera}"


def age(seconds: float) -> str:
    """How long ago, in the largest unit that says enough."""
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def moment(text: str | None) -> str | None:
    """A time as people read it, to the second."""
    return f"{text[:19].replace('T', ' ')} UTC" if text else None


def _row(device: Row) -> tuple[object, ...]:
    return (
        device["mac_address"],
        device["ip_address"],
        device["vendor"] or ("(random)" if device["locally_administered"] else None),
        device["signal_strength"] or None,
        ",".join(_SHORT.get(one["source"], one["source"]) for one in device["evidence"]),
        state(device),
    )


def _signal(dbm: int) -> str | None:
    return f"{dbm} dBm" if dbm else None


def _detail(one: Row) -> str:
    told = (one.get("host_name"), _signal(one.get("signal_strength") or 0), one.get("detail"))
    proves = () if one["proves_life"] else ("(no proof of life)",)
    return ", ".join(part for part in told if part) + "".join(f" {part}" for part in proves)
