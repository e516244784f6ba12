"""The actor of an operator action."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Actor:
    """Who requested an action: key name (`-` without a key), peer address, request id, action name."""

    key_name: str
    peer: str
    correlation_id: str
    action: str
