"""Stand-ins for external programs of the daemon; `install` puts them first on PATH."""

import json
import os
import sys

DEVICE_STATES = "wlan0:wifi:unmanaged\neth0:ethernet:connected\nwlan1:wifi:connected\n"
WIFI_LIST = (
    r"wlan1:*:4F6666696365:3C\:84\:6A\:11\:22\:30:2437 MHz:70:WPA2 WPA3" + "\n"
    r"wlan1: :436166C3A9203A5C:3C\:84\:6A\:11\:22\:40:5180 MHz:45:" + "\n"
    r"wlan1: ::3C\:84\:6A\:11\:22\:50:2462 MHz:20:WPA1 WPA2 802.1X" + "\n"
)
NMCLI = f"""
case "$*" in
  "-t -f DEVICE,TYPE,STATE device status") cat <<'END'
{DEVICE_STATES}END
  ;;
  "-t -f DEVICE,IN-USE,SSID-HEX,BSSID,FREQ,SIGNAL,SECURITY device wifi list --rescan "*) cat <<'END'
{WIFI_LIST}END
  ;;
  *) exit 2 ;;
esac"""
TAILSCALE_STATUS = {
    "Version": "1.76.1",
    "BackendState": "Running",
    "AuthURL": "https://login.example/a/secret",
    "TailscaleIPs": ["100.101.102.103", "fd7a:115c:a1e0::1"],
    "Self": {"ID": "nSelf", "HostName": "pi-kitchen", "TailscaleIPs": ["100.101.102.103"], "Online": True},
    "Peer": {
        "nodekey:1": {"ID": "nOffice", "HostName": "office", "TailscaleIPs": ["100.101.102.104"], "Online": True},
        "nodekey:2": {"ID": "nPhone", "HostName": "phone", "TailscaleIPs": None, "Online": False},
    },
}
TAILSCALE = f"cat <<'END'\n{json.dumps(TAILSCALE_STATUS)}\nEND\n"


def install(monkeypatch, folder, **scripts):
    """Put shell scripts first on PATH: name=script body."""
    folder.mkdir(exist_ok=True)
    for name, script in scripts.items():
        file = folder / name
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)
    if str(folder) not in os.environ["PATH"].split(":"):
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def python(source):
    """A script body that runs Python code."""
    return f"exec {sys.executable} -c '{source}' \"$@\""
