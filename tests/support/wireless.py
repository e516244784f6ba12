"""A fake nl80211 kernel at the other end of a netlink socket: families, dumps, errors, no answer.

Messages are encoded by pyroute2 where it has message classes, so that the bytes are independent of our code.
"""

import asyncio
import errno
import socket
import struct

from pyroute2.netlink import ctrlmsg
from pyroute2.netlink.nl80211 import nl80211cmd

from pi_orchestrator.net.wifi.nl80211 import (
    GET_INTERFACE,
    GET_SCAN,
    GET_STATION,
    NEW_INTERFACE,
    NEW_SCAN_RESULTS,
    NEW_STATION,
    attributes,
)

FAMILY, INDEX = 0x1C, 3
"""The id of the nl80211 family, and the index of the interface."""
MAC, OTHER = "24:6F:28:B0:F7:F1", "24:6F:28:CA:00:10"
ERROR, DONE, CTRL = 2, 3, 0x10
MULTI, DUMP, NESTED = 0x2, 0x300, 0x8000
# Numbers of nl80211: attributes of a message, of a BSS, and of a station.
ATTR_IFINDEX, ATTR_STA_INFO, ATTR_BSS = 3, 21, 47
BSS_BSSID, BSS_FREQUENCY, BSS_CAPABILITY, BSS_ELEMENTS, BSS_SIGNAL_MBM, BSS_SIGNAL_UNSPEC = 1, 2, 5, 6, 7, 8
BSS_STATUS, BSS_SEEN_MS, BSS_BEACON_ELEMENTS = 9, 10, 11
STA_INFO_FLAGS = 17
IFTYPE = {"station": 2, "ap": 3, "monitor": 6, "p2p_go": 9}


def tlv(kind, payload):
    data = struct.pack("=HH", 4 + len(payload), kind) + payload
    return data + b"\0" * (-len(data) % 4)


def message(kind, flags, sequence, body):
    return struct.pack("=IHHII", 16 + len(body), kind, flags, sequence, 0) + body


def encoded(command, attrs):
    """The body (generic netlink header and attributes) of an nl80211 message, encoded by pyroute2."""
    encoder = nl80211cmd()
    encoder["cmd"] = command
    encoder["version"] = 1
    encoder["attrs"] = [(f"NL80211_ATTR_{name}", value) for name, value in attrs]
    encoder["header"]["type"] = FAMILY
    encoder.encode()
    return bytes(encoder.data[16:])


def interface(kind="ap", *, ssid=b"DeliCasa", frequency=2437, index=INDEX, name="wlan0"):
    attrs = [
        ("IFINDEX", index),
        ("IFNAME", name),
        ("WIPHY", 0),
        ("IFTYPE", IFTYPE[kind]),
        ("MAC", "dc:a6:32:00:00:01"),
    ]
    attrs += [("GENERATION", 4)]
    if ssid is not None:
        attrs += [("SSID", ssid)]
    if frequency:
        attrs += [("WIPHY_FREQ", frequency)]
    return encoded(NEW_INTERFACE, attrs)


def station(mac=MAC, *, flags=None, **info):
    """A station message; `info`: INACTIVE_TIME (ms), SIGNAL, SIGNAL_AVG, CONNECTED_TIME …; `flags`: (mask, values)."""
    values = [(f"NL80211_STA_INFO_{name}", value) for name, value in info.items()]
    attrs = [("IFINDEX", INDEX), ("MAC", mac), ("GENERATION", 7), ("STA_INFO", {"attrs": values})]
    body = encoded(NEW_STATION, attrs)
    if flags is None:
        return body
    head, parsed = body[:4], attributes(body[4:])
    parsed[ATTR_STA_INFO] += tlv(STA_INFO_FLAGS, struct.pack("=II", *flags))
    return head + b"".join(tlv(kind, payload) for kind, payload in parsed.items())


def bss(mac=OTHER, *, name=b"Office", frequency=2437, elements=b"", seen_ms=500, joined=False, **more):
    """A scan result; `MBM` is the signal in 1/100 dBm (None: not included), `UNSPEC` the signal in percent."""
    signal, capability = more.get("MBM", -5800), more.get("capability", 0x11)
    ssid_and_elements = (b"" if name is None else bytes([0, len(name)]) + name) + elements
    parts = [
        tlv(BSS_BSSID, bytes.fromhex(mac.replace(":", ""))),
        tlv(BSS_FREQUENCY, struct.pack("=I", frequency)),
        tlv(BSS_CAPABILITY, struct.pack("=H", capability)),
        tlv(BSS_ELEMENTS, ssid_and_elements),
        tlv(BSS_SEEN_MS, struct.pack("=I", seen_ms)),
    ]
    parts += [tlv(BSS_SIGNAL_MBM, struct.pack("=i", signal))] if signal is not None else []
    parts += [tlv(BSS_SIGNAL_UNSPEC, bytes([more["UNSPEC"]]))] if "UNSPEC" in more else []
    parts += [tlv(BSS_STATUS, struct.pack("=I", 1))] if joined else []
    parts += [tlv(BSS_BEACON_ELEMENTS, more["beacon"])] if "beacon" in more else []
    head = struct.pack("=BBH", NEW_SCAN_RESULTS, 1, 0)
    return head + tlv(ATTR_IFINDEX, struct.pack("=I", INDEX)) + tlv(ATTR_BSS | NESTED, b"".join(parts))


class Kernel:
    """Answers requests with `interface`, `stations` and `scan_results`.

    Each is a list of bodies, raw bytes (`SEQU` stands for the sequence number), an errno, or None for no answer.
    """

    def __init__(self, *, family=True, **answers):
        self.family = family
        self.answers = {
            GET_INTERFACE: answers.get("interface", []),
            GET_STATION: answers.get("stations", []),
            GET_SCAN: answers.get("scan_results", []),
        }
        self.per_datagram = answers.get("per_datagram", 100)
        self.requests = []
        self.ends = []

    def new_socket(self):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        for end in (ours, theirs):
            end.setblocking(False)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self.ends.append(ours)
        asyncio.get_running_loop().add_reader(ours, self._read, ours)
        return NetlinkSocket(fileno=theirs.detach())

    def close(self):
        for end in self.ends:
            asyncio.get_running_loop().remove_reader(end)
            end.close()

    def _read(self, end):
        data = end.recv(65536)
        if not data:
            asyncio.get_running_loop().remove_reader(end)
            return
        _, kind, flags, sequence, _ = struct.unpack_from("=IHHII", data)
        for answer in self._answers(kind, flags, sequence, data):
            end.send(answer)

    def _answers(self, kind, flags, sequence, data):
        if kind == CTRL:
            assert b"nl80211\0" in data
            return [self._family(sequence)]
        assert kind == FAMILY
        command, request = data[16], attributes(data[20:])
        self.requests.append(
            (command, struct.unpack("=I", request[ATTR_IFINDEX])[0] if ATTR_IFINDEX in request else None, flags)
        )
        answer = self.answers[command]
        if answer is None:
            return []
        if isinstance(answer, bytes):
            return [answer.replace(b"SEQU", struct.pack("=I", sequence))]
        if isinstance(answer, int):
            return [message(ERROR, 0, sequence, struct.pack("=i", -answer) + data)]
        if not flags & DUMP:
            return [message(FAMILY, 0, sequence, body) for body in answer]
        parts = [message(FAMILY, MULTI, sequence, body) for body in answer]
        parts.append(message(DONE, MULTI, sequence, struct.pack("=i", 0)))
        return [b"".join(parts[at : at + self.per_datagram]) for at in range(0, len(parts), self.per_datagram)]

    def _family(self, sequence):
        if not self.family:
            return message(ERROR, 0, sequence, struct.pack("=i", -errno.ENOENT) + bytes(16))
        encoder = ctrlmsg()
        encoder["cmd"] = 1
        encoder["attrs"] = [("CTRL_ATTR_FAMILY_NAME", "nl80211"), ("CTRL_ATTR_FAMILY_ID", FAMILY)]
        encoder["header"]["type"] = CTRL
        encoder.encode()
        return message(CTRL, 0, sequence, bytes(encoder.data[16:]))


class NetlinkSocket(socket.socket):
    """Accepts the netlink calls that a Unix socket lacks: bind to a port id, sendto the kernel."""

    def bind(self, address):
        pass

    def sendto(self, data, address):
        return self.send(data)
