"""A route of the edge's API: by default its answers are in the envelope; its `scope` says which keys may use it."""

from __future__ import annotations

from dataclasses import dataclass, field

from pi_orchestrator.edge_http.envelope import ENVELOPE
from pi_orchestrator.edge_http.key_store import Scope
from pi_orchestrator.http import route as http_route
from pi_orchestrator.http.route import Shape


@dataclass(frozen=True)
class Route(http_route.Route):
    """One line of the route table.

    `scope`: the scope that a key must cover; None: no key is needed in any mode. A key is needed in mode `required`,
    with `needs_key_in_provisioning_mode` also in mode `provisioning`. `action` is the name of a write in the audit log.
    """

    scope: Scope | None
    shape: Shape = field(default=ENVELOPE, kw_only=True)
    action: str = field(default="", kw_only=True)
    needs_key_in_provisioning_mode: bool = field(default=False, kw_only=True)
