"""Answers in the shapes that old dashboards read, where they are not those of today without the envelope."""

from __future__ import annotations

from typing import Literal

from pi_orchestrator.api import network
from pi_orchestrator.api.cameras import CameraList
from pi_orchestrator.api.network import BridgeView
from pi_orchestrator.api.route import Reply
from pi_orchestrator.api.services import Services


class OldCameraList(CameraList):
    """Live cameras, as old dashboards read them."""

    success: Literal[True] = True


class OldBridge(BridgeView):
    """How the upstream gateway does, as old dashboards read it."""

    success: Literal[True] = True


async def cameras(services: Services) -> Reply[OldCameraList]:
    """Live cameras, for old dashboards."""
    return Reply(encoded=services.views.encoded_list()[:-1] + b',"success":true}')


async def bridge() -> OldBridge:
    """The upstream gateway, for old dashboards."""
    return OldBridge(status=(await network.bridge()).status)
