"""SSID of the access point, from the radio, settings, hostapd or NetworkManager, in this order."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

from pi_orchestrator.net.host.files import describe_error, read_bounded
from pi_orchestrator.net.wifi.ssid_files import Profile, parse_hostapd, parse_keyfile

MAX_BYTES = 256 * 1024
MAX_FILES = 64
HOSTAPD_FILES = ("hostapd.conf", "{interface}.conf", "hostapd-{interface}.conf")
KEYFILE_FOLDERS = ("etc/NetworkManager/system-connections", "run/NetworkManager/system-connections")

Origin = Literal["radio", "settings", "hostapd", "networkmanager"]


@dataclass(frozen=True, slots=True)
class Ssid:
    """The access point's SSID and its source."""

    name: str
    origin: Origin


class SsidReader:
    """Finds the SSID of one interface's access point; `reason` lists the tried sources if it is unknown."""

    def __init__(self, *, interface: str, configured: str | None = None, root: Path = Path("/")) -> None:
        self._interface = interface
        self._configured = configured
        self._root = root
        self.reason: str | None = None

    async def read(self, *, radio: str | None = None) -> Ssid | None:
        """The SSID; None if unknown. `radio` is the SSID from nl80211."""
        self.reason = None
        if radio:
            return Ssid(radio, "radio")
        if self._configured:
            return Ssid(self._configured, "settings")
        found, errors = await asyncio.to_thread(_from_files, self._root, self._interface)
        if found is None:
            # These files contain passwords, so it is normal that they cannot be read.
            unknown = "no SSID from the radio, ap.ssid, hostapd or NetworkManager"
            self.reason = "; ".join([unknown, *errors])
        return found


def _from_files(root: Path, interface: str) -> tuple[Ssid | None, list[str]]:
    errors: list[str] = []
    profiles = list(_hostapd(root, interface, errors))
    for profile in profiles:
        if profile.interface == interface:
            return Ssid(profile.ssid, "hostapd"), errors
    profiles = list(_keyfiles(root, errors))
    for profile in profiles:
        if profile.interface == interface:
            return Ssid(profile.ssid, "networkmanager"), errors
    unbound = [profile for profile in profiles if profile.interface is None]
    # Several profiles without an interface: the files do not show which one is active.
    return (Ssid(unbound[0].ssid, "networkmanager") if len(unbound) == 1 else None), errors


def _hostapd(root: Path, interface: str, errors: list[str]) -> Iterator[Profile]:
    for name in HOSTAPD_FILES:
        content = _read_file(root / "etc/hostapd" / name.format(interface=interface), errors)
        yield from parse_hostapd(content)


def _keyfiles(root: Path, errors: list[str]) -> Iterator[Profile]:
    for folder in KEYFILE_FOLDERS:
        # glob ignores a folder that it may not open
        for path in sorted(islice((root / folder).glob("*.nmconnection"), MAX_FILES)):
            profile = parse_keyfile(_read_file(path, errors))
            if profile is not None:
                yield profile


def _read_file(path: Path, errors: list[str]) -> bytes:
    try:
        content, _ = read_bounded(path, max_bytes=MAX_BYTES)
    except FileNotFoundError:
        return b""
    except OSError as error:
        errors.append(describe_error(path, error))
        return b""
    return content
