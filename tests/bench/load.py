"""A load generator process: HTTP requests at full speed or at a rate, MQTT status messages at a rate.

It writes the wire formats directly: a client library would need more CPU than the server under load.
"""

import asyncio
import itertools
import json
import socket
import sys
import time

from tests.bench.report import quantile


def status_message(mac, *, uptime_s, **changes):
    """(topic, payload) of a camera's status message."""
    fields = {
        "device_id": f"espcam-{mac.replace(':', '').lower()[-6:]}",
        "mac": mac,
        "state": "ONLINE",
        "timestamp": "2026-01-22T15:00:00.000+00:00",
        "ip": "127.77.0.10",
        "rssi_dbm": -54,
        "free_heap_bytes": 118_000,
        "uptime_ms": uptime_s * 1000,
        "firmware_version": "2.4.1",
        "camera_initialized": True,
        "capture_ready": True,
        "ssid": "DeliCasa-AP",
        "message_count": uptime_s,
    }
    return f"camera/status/{mac}", json.dumps(fields | changes)


def publisher(port):
    """Connect to a broker; returns the socket, ready for PUBLISH packets."""
    sock = socket.create_connection(("127.0.0.1", port))
    # MQTT 3.1.1, clean session, no keep-alive.
    sock.sendall(_packet(0x10, _text("MQTT") + b"\x04\x02\x00\x00" + _text("bench-load")))
    if sock.recv(4) != b"\x20\x02\x00\x00":
        raise RuntimeError("the broker refused the connection")
    return sock


def publish_packet(topic, payload):
    """The bytes of a PUBLISH packet with QoS 0."""
    return _packet(0x30, _text(topic) + payload.encode())


def _packet(kind, body):
    length, rest = bytearray(), len(body)
    while rest > 127:
        length.append(rest % 128 + 128)
        rest //= 128
    return bytes([kind, *length, rest]) + body


def _text(text):
    return len(text.encode()).to_bytes(2, "big") + text.encode()


class Connection(asyncio.Protocol):
    """One HTTP connection, one request at a time; every answer must have a Content-Length."""

    def connection_made(self, transport):
        self.transport = transport
        self.buffer = b""
        self.answer = None

    def data_received(self, data):
        self.buffer += data
        head, blank_line, body = self.buffer.partition(b"\r\n\r\n")
        if blank_line and len(body) >= int(head.lower().partition(b"content-length:")[2].split(None, 1)[0]):
            self.buffer = b""
            self.answer.set_result(int(head[9:12]))

    def connection_lost(self, error):
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(error or ConnectionError("closed without an answer"))

    def send(self, request):
        """Send a request; returns a future of the status code."""
        self.answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self.answer


async def send_requests(seconds, *, port, path, method="GET", status=200, connections=4, rate=0.0, unsent_bytes=0):
    """Send requests for `seconds`; returns {per_s, p50_ms, p99_ms}. `rate`: requests per second; 0 is unlimited.

    `path` may be a list: its paths are requested in turn. `unsent_bytes`: the Content-Length of a body that is never
    sent, with a new connection for each request.
    """
    loop = asyncio.get_running_loop()
    body = f"Content-Type: application/json\r\nContent-Length: {unsent_bytes}\r\n" if unsent_bytes else ""
    paths = itertools.cycle([path] if isinstance(path, str) else path)
    latencies = []
    started_at = time.perf_counter()

    async def client(number):
        _, connection = await loop.create_connection(Connection, "127.0.0.1", port)
        due = started_at + number / rate if rate else 0.0
        while (now := time.perf_counter()) < started_at + seconds:
            sent_at = now
            if rate and now < due:
                await asyncio.sleep(due - now)
                sent_at = time.perf_counter()
            elif rate:
                sent_at = due  # the previous answer was late: latency counts from the scheduled time
            path = next(paths)
            answered = await connection.send(
                f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{body}\r\n".encode()
            )
            latencies.append(time.perf_counter() - sent_at)
            if answered != status:
                raise RuntimeError(f"{method} {path} was answered by {answered}, not {status}")
            due += connections / rate if rate else 0.0
            if unsent_bytes:
                connection.transport.close()
                _, connection = await loop.create_connection(Connection, "127.0.0.1", port)
        connection.transport.close()

    async with asyncio.TaskGroup() as clients:
        for number in range(connections):
            clients.create_task(client(number))
    per_s = len(latencies) / (time.perf_counter() - started_at)
    return {"per_s": per_s, "p50_ms": quantile(latencies, 0.5) * 1000, "p99_ms": quantile(latencies, 0.99) * 1000}


def http():
    """For each input line with arguments of `send_requests`, print a line with its result."""
    for line in sys.stdin:
        print(json.dumps(asyncio.run(send_requests(**json.loads(line)))), flush=True)


def messages(port, rate, macs):
    """Publish status messages of these cameras, evenly spaced, until the process is killed."""
    sock, cameras = publisher(int(port)), macs.split(",")
    started_at = time.perf_counter()
    for number in itertools.count():
        packet = publish_packet(*status_message(cameras[number % len(cameras)], uptime_s=1000 + number))
        time.sleep(max(0.0, started_at + number / float(rate) - time.perf_counter()))
        sock.sendall(packet)


if __name__ == "__main__":
    {"http": http, "messages": messages}[sys.argv[1]](*sys.argv[2:])
