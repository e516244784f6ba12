"""Tailscale, where it is installed, by `tailscale status --json`."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from pi_orchestrator.clock import Clock
from pi_orchestrator.domain.strict_json import clean_text, parse_object
from pi_orchestrator.errors import FieldError, NetworkError, NotFoundError
from pi_orchestrator.net import programs
from pi_orchestrator.net.programs import NotInstalledError, ProgramError
from pi_orchestrator.net.shared import Shared

ANSWER_WITHIN_S = 5.0
KEEP_S = 10.0
"""The program is tens of megabytes: not for every look at a page."""
MAX_BYTES = 1024 * 1024
MAX_DEPTH = 16
MAX_PEERS = 256


@dataclass(frozen=True, slots=True)
class Peer:
    """Another machine of the same network; text is empty where it tells nothing."""

    id: str
    hostname: str
    address: str
    online: bool


@dataclass(frozen=True, slots=True)
class TailscaleStatus:
    """What it says of itself; `backend_state` is its own word (`Running`, `Stopped`, `NeedsLogin` …)."""

    backend_state: str
    address: str
    hostname: str
    peers: tuple[Peer, ...]


class Tailscale:
    """Asks at most once in some seconds, however many want to know."""

    def __init__(self, *, clock: Clock) -> None:
        self._ask = Shared(_status, keep_s=KEEP_S, clock=clock)

    async def read(self) -> TailscaleStatus:
        """How it is now; NotFoundError where it is not installed, NetworkError where it gives no answer."""
        return await self._ask.get()


async def _status() -> TailscaleStatus:
    try:
        answer = await programs.ask("tailscale", "status", "--json", within_s=ANSWER_WITHIN_S, max_bytes=MAX_BYTES)
        if answer.code:
            raise ProgramError(answer.complaint or f"tailscale ended with code {answer.code}")
        return parse_status(answer.output)
    except NotInstalledError:
        raise NotFoundError("Tailscale is not installed on this machine") from None
    except (ProgramError, FieldError) as error:
        raise NetworkError(
            f"Tailscale does not tell how it is: {error}", details="see: systemctl status tailscaled"
        ) from None


def parse_status(output: bytes) -> TailscaleStatus:
    """The program's JSON → what is told of it; FieldError where it is none."""
    told = parse_object(output, max_bytes=MAX_BYTES, max_depth=MAX_DEPTH)
    own, peers = _object(told.get("Self")), _object(told.get("Peer"))
    state = clean_text(told.get("BackendState"))
    if state is None:
        raise FieldError("its answer names no state")
    known = (_object(peer) for peer in list(peers.values())[:MAX_PEERS])
    return TailscaleStatus(
        backend_state=state,
        address=_address(told) or _address(own),
        hostname=clean_text(own.get("HostName")) or "",
        peers=tuple(
            Peer(
                id=clean_text(peer.get("ID")) or "",
                hostname=clean_text(peer.get("HostName")) or "",
                address=_address(peer),
                online=peer.get("Online") is True,
            )
            for peer in known
        ),
    )


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _address(node: dict[str, Any]) -> str:
    """Its first address."""
    told = node.get("TailscaleIPs")
    for text in told if isinstance(told, list) else ():
        try:
            return str(ip_address(text)) if isinstance(text, str) else ""
        except ValueError:
            continue
    return ""
