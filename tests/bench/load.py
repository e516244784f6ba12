"""Load, from a process of its own: HTTP requests in a closed loop or at a pace, MQTT status messages at a pace.

It speaks the wire formats itself: a client library would need more CPU than the server that it is to load.
"""

import argparse
import asyncio
import itertools
import json
import socket
import time

from tests.bench.report import quantile


def status_message(mac, *, uptime_s, **more):
    """(topic, payload) as a camera sends them."""
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
    return f"camera/status/{mac}", json.dumps(fields | more)


def publisher(port):
    """A socket on which PUBLISH packets can be sent."""
    sock = socket.create_connection(("127.0.0.1", port))
    # MQTT 3.1.1, clean session, no keep-alive.
    sock.sendall(_packet(0x10, _text("MQTT") + b"\x04\x02\x00\x00" + _text("bench-load")))
    if sock.recv(4) != b"\x20\x02\x00\x00":
        raise RuntimeError("the broker refused the connection")
    return sock


def publish_packet(topic, payload):
    """PUBLISH, QoS 0."""
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
    """One HTTP connection, one request at a time; every answer must say its length."""

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

    def ask(self, request):
        """A future of the answer's status."""
        self.answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self.answer


async def ask_for(seconds, *, port, request, status, connections, rate, fresh):
    """Ask and ask again; (answers, seconds, latencies). A `fresh` connection for each request, or kept ones."""
    loop = asyncio.get_running_loop()
    latencies = []
    began = time.perf_counter()

    async def client(number):
        _, connection = await loop.create_connection(Connection, "127.0.0.1", port)
        due = began + number / rate if rate else 0.0
        while (now := time.perf_counter()) < began + seconds:
            started = now
            if rate and now < due:
                await asyncio.sleep(due - now)
                started = time.perf_counter()
            elif rate:
                started = due  # the answer before it came late: who waits for this one waits since it was due
            got = await connection.ask(request)
            latencies.append(time.perf_counter() - started)
            if got != status:
                raise RuntimeError(f"the answer was {got}, not {status}")
            due += connections / rate if rate else 0.0
            if fresh:
                connection.transport.close()
                _, connection = await loop.create_connection(Connection, "127.0.0.1", port)
        connection.transport.close()

    async with asyncio.TaskGroup() as clients:
        for number in range(connections):
            clients.create_task(client(number))
    return len(latencies), time.perf_counter() - began, latencies


def http(args):
    head = f"{args.method} {args.path} HTTP/1.1\r\nHost: 127.0.0.1:{args.port}\r\n"
    if args.declare:
        head += f"Content-Type: application/json\r\nContent-Length: {args.declare}\r\n"
    asked = ask_for(
        args.seconds,
        port=args.port,
        request=f"{head}\r\n".encode(),
        status=args.status,
        connections=args.connections,
        rate=args.rate,
        fresh=bool(args.declare),
    )
    count, seconds, latencies = asyncio.run(asked)
    print(json.dumps({"per_s": count / seconds, "p99_ms": quantile(latencies, 0.99) * 1000}))


def mqtt(args):
    """Status messages of registered cameras, evenly spaced, until the process is ended."""
    sock = publisher(args.port)
    macs = args.macs.split(",")
    began = time.perf_counter()
    for number in itertools.count():
        packet = publish_packet(*status_message(macs[number % len(macs)], uptime_s=1000 + number))
        time.sleep(max(0.0, began + number / args.rate - time.perf_counter()))
        sock.sendall(packet)


def main():
    parser = argparse.ArgumentParser()
    kinds = parser.add_subparsers(required=True)
    one = kinds.add_parser("http")
    one.add_argument("--port", type=int, required=True)
    one.add_argument("--path", required=True)
    one.add_argument("--method", default="GET")
    one.add_argument("--status", type=int, default=200)
    one.add_argument("--seconds", type=float, default=1.0)
    one.add_argument("--connections", type=int, default=4)
    one.add_argument("--rate", type=float, default=0.0, help="requests a second; 0: as fast as they are answered")
    one.add_argument("--declare", type=int, default=0, help="a Content-Length whose body is never sent")
    one.set_defaults(run=http)
    other = kinds.add_parser("mqtt")
    other.add_argument("--port", type=int, required=True)
    other.add_argument("--rate", type=float, required=True)
    other.add_argument("--macs", required=True)
    other.set_defaults(run=mqtt)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
