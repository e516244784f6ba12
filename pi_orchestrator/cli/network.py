"""`network`: this machine's interfaces, WiFi, the broker and the gateway on one screen."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from pi_orchestrator.cli.options import add_client
from pi_orchestrator.cli.output import print_json, table

if TYPE_CHECKING:
    from pi_orchestrator.cli.options import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Add `network`."""
    parser = subparsers.add_parser(
        "network",
        help="interfaces, WiFi, broker and gateway on one screen",
        description="How the daemon is connected: interfaces, WiFi, broker and gateway.",
    )
    parser.add_argument("--scan", action="store_true", help="look for WiFi networks instead")
    add_client(parser)
    parser.set_defaults(func=network)


def network(args: argparse.Namespace) -> int:
    """Print how it is connected, or the WiFi networks around."""
    from pi_orchestrator.cli.client import connect

    client = connect(args)
    told = client.get("/api/v1/wifi/scan" if args.scan else "/api/v1/network")
    if args.json:
        print_json(told)
    elif args.scan:
        print(_networks(told["networks"]) if told["networks"] else "No WiFi network was heard.")
    else:
        print(table(("INTERFACE", "STATE", "MAC", "ADDRESSES"), [_interface(one) for one in told["interfaces"]]))
        rows = (
            ("WiFi", _client(told["wifi"])),
            ("access point", _access_point(told["wifi"])),
            ("broker", _broker(told["mqtt"])),
            ("gateway", _gateway(told["bridge"])),
        )
        print("\n" + table(("CONNECTION", ""), rows))
    return 0


def _interface(one: dict[str, Any]) -> tuple[object, ...]:
    state = ("up" if one["up"] else "down") + (", cameras" if one["serves_cameras"] else "")
    return one["name"], state, one["mac_address"], ", ".join(one["addresses"])


def _client(wifi: dict[str, Any]) -> str:
    signal = f"{wifi['client_signal']} dBm" if "client_signal" in wifi else None
    return _with(wifi["client_status"], wifi.get("client_ssid"), wifi.get("client_ip"), signal)


def _access_point(wifi: dict[str, Any]) -> str:
    count = wifi["connected_devices"]
    devices = f"{count} device{'' if count == 1 else 's'}"
    return _with(wifi["ap_status"], wifi.get("ap_ssid"), wifi.get("ap_ip"), devices)


def _broker(mqtt: dict[str, Any]) -> str:
    where = f"{mqtt['broker']}:{mqtt['port']}"
    latency = f"{mqtt['latency_ms']:g} ms" if mqtt["connected"] else None
    return _with("connected" if mqtt["connected"] else "not connected", where, latency)


def _gateway(bridge: dict[str, Any]) -> str:
    if not bridge["configured"]:
        return "not configured"
    return _with("connected" if bridge["connected"] else "not connected", bridge["url"])


def _with(state: str, *facts: str | None) -> str:
    told = ", ".join(fact for fact in facts if fact)
    return f"{state}: {told}" if told else state


def _networks(networks: list[dict[str, Any]]) -> str:
    rows = [
        (
            one["ssid"] or "(hidden)",
            one["bssid"],
            one["channel"] or None,
            f"{one['signal']} dBm" if one["signal"] else None,
            one["security"],
        )
        for one in networks
    ]
    return table(("NETWORK", "BSSID", "CHANNEL", "SIGNAL", "SECURITY"), rows, shrink=(0,))
