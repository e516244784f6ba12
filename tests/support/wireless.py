"""The wireless part of a kernel, as a stand-in at the other end of a netlink socket: families, dumps, errors, silence.

Messages are made by netlink's own message classes where they have them, so that bytes are not our own invention.
"""

import asyncio
import errno
import socket
import struct

from pyroute2.netlink import ctrlmsg
from pyroute2.netlink.nl80211 import nl80211cmd

from pi_orchestrator.net.nl80211 import attributes

FAMILY, INDEX = 0x1C, 3
MAC, OTHER = "24:6F:28:B0:F7:F1", "24:6F:28:CA:00:10"
ERROR, DONE, CTRL = 2, 3, 0x10
MULTI = 0x2
IFTYPE = {"station": 2, "ap": 3, "monitor": 6, "p2p_go": 9}


def tlv(kind, payload):
    data = struct.pack("=HH", 4 + len(payload), kind) + payload
    return data + b"\0" * (-len(data) % 4)


def message(kind, flags, sequence, body):
    return struct.pack("=IHHII", 16 + len(body), kind, flags, sequence, 0) + body


def encoded(command, attrs):
    """The body (generic netlink header and attributes) of an nl80211 message, by the library's definitions."""
    made = nl80211cmd()
    made["cmd"] = command
    made["version"] = 1
    made["attrs"] = [(f"NL80211_ATTR_{name}", value) for name, value in attrs]
    made["header"]["type"] = FAMILY
    made.encode()
    return bytes(made.data[16:])


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
    return encoded(7, attrs)


def station(mac=MAC, *, flags=None, **info):
    """INACTIVE_TIME (ms), SIGNAL, SIGNAL_AVG, CONNECTED_TIME …; `flags` are mask and values."""
    known = [(f"NL80211_STA_INFO_{name}", value) for name, value in info.items()]
    body = encoded(19, [("IFINDEX", INDEX), ("MAC", mac), ("GENERATION", 7), ("STA_INFO", {"attrs": known})])
    if flags is None:
        return body
    head, told = body[:4], attributes(body[4:])
    told[21] += tlv(17, struct.pack("=II", *flags))
    return head + b"".join(tlv(kind, payload) for kind, payload in told.items())


def bss(mac=OTHER, *, name=b"Office", frequency=2437, elements=b"", seen_ms=500, joined=False, **more):
    """What was heard of an access point; MBM is its signal in 1/100 dBm (None: not told), UNSPEC in per cent."""
    signal, capability = more.get("MBM", -5800), more.get("capability", 0x11)
    beacon = (b"" if name is None else bytes([0, len(name)]) + name) + elements
    parts = [
        tlv(1, bytes.fromhex(mac.replace(":", ""))),
        tlv(2, struct.pack("=I", frequency)),
        tlv(5, struct.pack("=H", capability)),
        tlv(6, beacon),
        tlv(10, struct.pack("=I", seen_ms)),
    ]
    parts += [tlv(7, struct.pack("=i", signal))] if signal is not None else []
    parts += [tlv(8, bytes([more["UNSPEC"]]))] if "UNSPEC" in more else []
    parts += [tlv(9, struct.pack("=I", 1))] if joined else []
    parts += [tlv(11, more["beacon"])] if "beacon" in more else []
    head = struct.pack("=BBH", 34, 1, 0)
    return head + tlv(3, struct.pack("=I", INDEX)) + tlv(47 | 0x8000, b"".join(parts))


class Kernel:
    """Answers what it is asked: `answers` by command is a list of bodies, an error number, or None for silence."""

    def __init__(self, *, family=True, **answers):
        self.family = family
        self.answers = {5: answers.get("interface", []), 17: answers.get("stations", []), 32: answers.get("heard", [])}
        self.per_datagram = answers.get("per_datagram", 100)
        self.asked = []
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
        command, asked = data[16], attributes(data[20:])
        self.asked.append((command, struct.unpack("=I", asked[3])[0] if 3 in asked else None, flags))
        answer = self.answers[command]
        if answer is None:
            return []
        if isinstance(answer, bytes):
            return [answer.replace(b"SEQU", struct.pack("=I", sequence))]
        if isinstance(answer, int):
            return [message(ERROR, 0, sequence, struct.pack("=i", -answer) + data)]
        if not flags & 0x300:
            return [message(FAMILY, 0, sequence, body) for body in answer]
        parts = [message(FAMILY, MULTI, sequence, body) for body in answer]
        parts.append(message(DONE, MULTI, sequence, struct.pack("=i", 0)))
        return [b"".join(parts[at : at + self.per_datagram]) for at in range(0, len(parts), self.per_datagram)]

    def _family(self, sequence):
        if not self.family:
            return message(ERROR, 0, sequence, struct.pack("=i", -errno.ENOENT) + bytes(16))
        made = ctrlmsg()
        made["cmd"] = 1
        made["attrs"] = [("CTRL_ATTR_FAMILY_NAME", "nl80211"), ("CTRL_ATTR_FAMILY_ID", FAMILY)]
        made["header"]["type"] = CTRL
        made.encode()
        return message(CTRL, 0, sequence, bytes(made.data[16:]))


class NetlinkSocket(socket.socket):
    """What only a netlink socket can: bind to a port number, send to the kernel by address."""

    def bind(self, address):
        pass

    def sendto(self, data, address):
        return self.send(data)
