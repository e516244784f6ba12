"""Sends credentials to a camera, and watches the kernel's neighbour entry of its address meanwhile.

`GET /status` and `POST /provision` use one TCP connection. If the camera closes it after `/status`, as some firmwares
do, `POST /provision` uses a second one. In both cases, from the moment at which the first connection is made:

* the entry of the camera's address is checked after each connect, after `/status`, and immediately before the body is
  written; nothing is sent if it names another MAC, or has named one since the first check;
* a change while the body is being sent resets the connection, which also discards what the kernel would repeat;
* what the camera has not acknowledged at the end is discarded, not repeated by the kernel in the background.

A first change in the 0.1 ms between the last check and the write is not prevented. It is noticed and reported. A
loopback address has no entry: there, `/status` alone counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import struct
import termios
from types import SimpleNamespace, TracebackType
from typing import Self

import aiohttp

from pi_orchestrator.core.error_codes import VerificationCode
from pi_orchestrator.core.errors import ProvisionError, VerificationError
from pi_orchestrator.core.ipv4 import parse_ipv4
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.core.wifi import Credentials, MqttAccess
from pi_orchestrator.net.camera_http import CameraAnswer, CameraHttpClient, new_session
from pi_orchestrator.net.kernel.neighbour_watch import NeighbourWatch

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER with 0 s: close() discards unsent and unacknowledged bytes."""


class CameraConnection:
    """`async with CameraConnection(...)`: requests to one camera, whose address must belong to `mac` meanwhile."""

    def __init__(self, *, address: str, port: int, mac: Mac) -> None:
        ip = parse_ipv4(address)
        self._address = address
        self._watch = None if ip.is_loopback else NeighbourWatch(ip, mac, on_other=self._reset)
        trace = aiohttp.TraceConfig()
        trace.on_connection_create_end.append(self._on_connected)
        self._session = new_session(keeps_connection=True, trace=trace)
        self._http = CameraHttpClient(session=self._session, port=port)
        self._failure: VerificationError | None = None
        self._transport: asyncio.WriteTransport | None = None
        self._socket: socket.socket | None = None

    async def __aenter__(self) -> Self:
        try:
            if self._watch:
                self._watch.open()
        except OSError as error:
            await self._session.close()
            raise VerificationError(
                f"the kernel's neighbour table cannot be read: {os.strerror(error.errno or 0)}",
                code=VerificationCode.UNREACHABLE,
            ) from None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._socket:
            with contextlib.suppress(OSError):
                if _unacknowledged_bytes(self._socket):
                    self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        try:
            await self._session.close()
        finally:
            if self._socket:
                self._socket.close()
            if self._watch:
                self._watch.close()

    @property
    def is_bound(self) -> bool:
        """Whether success of `status` also proves that the kernel binds the address to the MAC; False for loopback."""
        return self._watch is not None

    async def status(self, *, timeout_s: float) -> CameraAnswer:
        """`GET /status`; VerificationError also if the address does not belong to the MAC."""
        try:
            answer = await self._http.status(self._address, timeout_s=timeout_s)
        except VerificationError as error:
            raise self._failure or error from None
        if self._failure:
            raise self._failure
        if self._watch:
            self._watch.check()
        return answer

    async def provision(
        self,
        *,
        credentials: Credentials,
        mqtt: MqttAccess,
        container_id: str | None,
        request_id: str,
        timeout_s: float,
    ) -> None:
        """`POST /provision` once, as `CameraHttpClient.provision`; MAC_MISMATCH if another device took the address."""
        try:
            await self._http.provision(
                self._address,
                credentials=credentials,
                mqtt=mqtt,
                container_id=container_id,
                request_id=request_id,
                timeout_s=timeout_s,
                before_write=self._before_write,
            )
        except ProvisionError as error:
            if error.may_have_arrived and self._watch and self._watch.other:
                raise ProvisionError(
                    f"{self._watch.other} took over {self._address} while the credentials were sent, and may have"
                    " received them: change the password unless it is a device of yours",
                    code=VerificationCode.MAC_MISMATCH,
                    may_have_arrived=True,
                ) from None
            raise

    async def _on_connected(self, _session: aiohttp.ClientSession, _context: SimpleNamespace, _params: object) -> None:
        # An error raised here would leave the connection open. The request on this connection contains no secret, or is
        # checked again before its body.
        try:
            if self._watch:
                self._watch.check()
        except VerificationError as error:
            self._failure = self._failure or error

    def _before_write(self, transport: asyncio.WriteTransport | None) -> None:
        """Called immediately before credentials are written; VerificationError if they must not be."""
        if not self._watch:
            return
        if transport is None:
            raise VerificationError("the connection was lost", code=VerificationCode.UNREACHABLE)
        self._transport = transport
        # aiohttp may close its descriptor at any time; the kernel ends the connection when this copy is closed, too.
        self._socket = transport.get_extra_info("socket").dup()
        if self._failure:
            raise self._failure
        self._watch.check()

    def _reset(self) -> None:
        """End the connection and discard unsent bytes, because another MAC has the address now."""
        if self._socket and self._transport:
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self._socket.close()
            self._socket = None
            self._transport.abort()


def _unacknowledged_bytes(sock: socket.socket) -> int:
    """Bytes that the kernel would still send, or send again, after close()."""
    (count,) = struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))
    return int(count)
