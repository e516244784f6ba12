"""Tailscale status, from `tailscale status --json`."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from pi_orchestrator.core.clock import Clock
from pi_orchestrator.core.errors import FieldError, NetworkError, NotFoundError
from pi_orchestrator.core.single_flight import SingleFlight
from pi_orchestrator.core.validation import clean_text, parse_object
from pi_orchestrator.net.host import programs
from pi_orchestrator.net.host.programs import NotInstalledError, ProgramError

ANSWER_TIMEOUT_S = 5.0
KEEP_S = 10.0
"""Running the program is expensive (tens of MB): its result is cached."""
MAX_BYTES = 1024 * 1024
MAX_DEPTH = 16
MAX_PEERS = 256


@dataclass(frozen=True, slots=True)
class Peer:
    """Another machine of the tailnet; a missing text is empty."""

    id: str
    hostname: str
    address: str
    online: bool


@dataclass(frozen=True, slots=True)
class TailscaleStatus:
    """`backend_state` as reported (`Running`, `Stopped`, `NeedsLogin` …); own address and name, empty if missing."""

    backend_state: str
    address: str
    hostname: str
    peers: tuple[Peer, ...]


class Tailscale:
    """Reads the status at most once per `KEEP_S`."""

    def __init__(self, *, clock: Clock) -> None:
        self._cached = SingleFlight(_status, keep_s=KEEP_S, clock=clock)

    async def read(self) -> TailscaleStatus:
        """The current status; NotFoundError if Tailscale is not installed, NetworkError without a valid answer."""
        return await self._cached.get()


async def _status() -> TailscaleStatus:
    try:
        result = await programs.run("tailscale", "status", "--json", timeout_s=ANSWER_TIMEOUT_S, max_bytes=MAX_BYTES)
        if result.exit_code:
            raise ProgramError(result.error_text or f"tailscale exited with code {result.exit_code}")
        return parse_status(result.output)
    except NotInstalledError:
        raise NotFoundError("Tailscale is not installed on this machine") from None
    except (ProgramError, FieldError) as error:
        raise NetworkError(
            f"Tailscale status not available: {error}", details="run: systemctl status tailscaled"
        ) from None


def parse_status(output: bytes) -> TailscaleStatus:
    """Parse the JSON output of `tailscale status`; FieldError if it is invalid."""
    status = parse_object(output, max_bytes=MAX_BYTES, max_depth=MAX_DEPTH)
    own, peers = _object(status.get("Self")), _object(status.get("Peer"))
    state = clean_text(status.get("BackendState"))
    if state is None:
        raise FieldError("the answer has no BackendState")
    nodes = (_object(peer) for peer in list(peers.values())[:MAX_PEERS])
    return TailscaleStatus(
        backend_state=state,
        address=_address(status) or _address(own),
        hostname=clean_text(own.get("HostName")) or "",
        peers=tuple(
            Peer(
                id=clean_text(peer.get("ID")) or "",
                hostname=clean_text(peer.get("HostName")) or "",
                address=_address(peer),
                online=peer.get("Online") is True,
            )
            for peer in nodes
        ),
    )


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _address(node: dict[str, Any]) -> str:
    """The first valid address of a node; empty if it has none."""
    addresses = node.get("TailscaleIPs")
    for text in addresses if isinstance(addresses, list) else ():
        if not isinstance(text, str):
            continue  # a number is a valid argument of ip_address
        try:
            return str(ip_address(text))
        except ValueError:
            continue
    return ""
