"""`network`: show interfaces, WiFi, broker and gateway."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from pi_orchestrator.cli.connection import connect
from pi_orchestrator.cli.options import add_client
from pi_orchestrator.cli.output import print_json, table

if TYPE_CHECKING:
    from pi_orchestrator.cli.options import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Add `network`."""
    parser = subparsers.add_parser(
        "network",
        help="show interfaces, WiFi, broker and gateway",
        description="Show the connections of the daemon: interfaces, WiFi, broker and gateway.",
    )
    parser.add_argument("--scan", action="store_true", help="list WiFi networks in range, instead of connections")
    add_client(parser)
    parser.set_defaults(func=network)


def network(args: argparse.Namespace) -> int:
    """Print the network status, or the WiFi networks in range."""
    client = connect(args)
    data = client.get("/api/v1/wifi/scan" if args.scan else "/api/v1/network")
    if args.json:
        print_json(data)
    elif args.scan:
        print(_networks(data["networks"]) if data["networks"] else "No WiFi network found.")
    else:
        print(table(("INTERFACE", "STATE", "MAC", "ADDRESSES"), [_interface(link) for link in data["interfaces"]]))
        rows = (
            ("WiFi", _client(data["wifi"])),
            ("access point", _access_point(data["wifi"])),
            ("broker", _broker(data["mqtt"])),
            ("gateway", _gateway(data["bridge"])),
        )
        print("\n" + table(("CONNECTION", ""), rows))
    return 0


def _interface(link: dict[str, Any]) -> tuple[object, ...]:
    state = ("up" if link["up"] else "down") + (", cameras" if link["serves_cameras"] else "")
    return link["name"], state, link["mac_address"], ", ".join(link["addresses"])


def _client(wifi: dict[str, Any]) -> str:
    signal = f"{wifi['client_signal']} dBm" if "client_signal" in wifi else None
    return _describe(wifi["client_status"], wifi.get("client_ssid"), wifi.get("client_ip"), signal)


def _access_point(wifi: dict[str, Any]) -> str:
    count = wifi["connected_devices"]
    devices = f"{count} device{'' if count == 1 else 's'}"
    return _describe(wifi["ap_status"], wifi.get("ap_ssid"), wifi.get("ap_ip"), devices)


def _broker(mqtt: dict[str, Any]) -> str:
    address = f"{mqtt['broker']}:{mqtt['port']}"
    latency = f"{mqtt['latency_ms']:g} ms" if mqtt["connected"] else None
    return _describe("connected" if mqtt["connected"] else "not connected", address, latency)


def _gateway(bridge: dict[str, Any]) -> str:
    if not bridge["configured"]:
        return "not configured"
    return _describe("connected" if bridge["connected"] else "not connected", bridge["url"])


def _describe(state: str, *facts: str | None) -> str:
    details = ", ".join(fact for fact in facts if fact)
    return f"{state}: {details}" if details else state


def _networks(networks: list[dict[str, Any]]) -> str:
    rows = [
        (
            network["ssid"] or "(hidden)",
            network["bssid"],
            network["channel"] or None,
            f"{network['signal']} dBm" if network["signal"] else None,
            network["security"],
        )
        for network in networks
    ]
    return table(("NETWORK", "BSSID", "CHANNEL", "SIGNAL", "SECURITY"), rows, shrink=(0,))
