"""What the access point is called: by the radio, the settings, hostapd's file or NetworkManager's, in that order."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

from pi_orchestrator.domain.ssid import Profile, parse_hostapd, parse_keyfile
from pi_orchestrator.net.files import read_bounded, why

MAX_BYTES = 256 * 1024
MAX_FILES = 64
HOSTAPD_FILES = ("hostapd.conf", "{interface}.conf", "hostapd-{interface}.conf")
KEYFILE_FOLDERS = ("etc/NetworkManager/system-connections", "run/NetworkManager/system-connections")

Origin = Literal["radio", "settings", "hostapd", "networkmanager"]


@dataclass(frozen=True, slots=True)
class Ssid:
    """The access point's name and who told it."""

    name: str
    origin: Origin


class SsidReader:
    """Finds the name of one interface's access point; where nobody tells it, `reason` says who was asked."""

    def __init__(self, *, interface: str, configured: str | None = None, root: Path = Path("/")) -> None:
        self._interface = interface
        self._configured = configured
        self._root = root
        self.reason: str | None = None

    async def read(self, *, radio: str | None = None) -> Ssid | None:
        """The name; `radio` is what nl80211 said."""
        self.reason = None
        if radio:
            return Ssid(radio, "radio")
        if self._configured:
            return Ssid(self._configured, "settings")
        found, refused = await asyncio.to_thread(_by_files, self._root, self._interface)
        if found is None:
            # Both programs keep passwords in these files, so that we may not read them is as it should be.
            nowhere = "neither the radio, ap.ssid, hostapd nor NetworkManager tells the network's name"
            self.reason = "; ".join([nowhere, *refused])
        return found


def _by_files(root: Path, interface: str) -> tuple[Ssid | None, list[str]]:
    refused: list[str] = []
    profiles = list(_hostapd(root, interface, refused))
    for profile in profiles:
        if profile.interface == interface:
            return Ssid(profile.ssid, "hostapd"), refused
    profiles = list(_keyfiles(root, refused))
    for profile in profiles:
        if profile.interface == interface:
            return Ssid(profile.ssid, "networkmanager"), refused
    unbound = [profile for profile in profiles if profile.interface is None]
    # Several that any interface may take: which one it has taken is not in the files.
    return (Ssid(unbound[0].ssid, "networkmanager") if len(unbound) == 1 else None), refused


def _hostapd(root: Path, interface: str, refused: list[str]) -> Iterator[Profile]:
    for name in HOSTAPD_FILES:
        content = _content(root / "etc/hostapd" / name.format(interface=interface), refused)
        yield from parse_hostapd(content)


def _keyfiles(root: Path, refused: list[str]) -> Iterator[Profile]:
    for folder in KEYFILE_FOLDERS:
        # glob says nothing of a folder that it may not open
        for path in sorted(islice((root / folder).glob("*.nmconnection"), MAX_FILES)):
            profile = parse_keyfile(_content(path, refused))
            if profile is not None:
                yield profile


def _content(path: Path, refused: list[str]) -> bytes:
    try:
        content, _ = read_bounded(path, max_bytes=MAX_BYTES)
    except FileNotFoundError:
        return b""
    except OSError as error:
        refused.append(why(path, error))
        return b""
    return content
