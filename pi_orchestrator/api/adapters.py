"""Answers in the shapes that old dashboards read, where they are not those of today without the envelope."""

from __future__ import annotations

from typing import Literal

from pi_orchestrator.api import commands, network
from pi_orchestrator.api.cameras import CameraList, CameraPath
from pi_orchestrator.api.network import BridgeView
from pi_orchestrator.api.onboarding import Message
from pi_orchestrator.api.route import Reply
from pi_orchestrator.api.services import Services
from pi_orchestrator.storage.actions import Actor


class OldCameraList(CameraList):
    """Live cameras, as old dashboards read them."""

    success: Literal[True] = True


class OldBridge(BridgeView):
    """How the upstream gateway does, as old dashboards read it."""

    success: Literal[True] = True


class OldReboot(Message):
    """What was done, as old dashboards read it."""

    success: Literal[True] = True


async def cameras(services: Services) -> Reply[OldCameraList]:
    """Live cameras, for old dashboards."""
    return Reply(encoded=services.views.encoded_list()[:-1] + b',"success":true}')


async def bridge() -> OldBridge:
    """The upstream gateway, for old dashboards."""
    return OldBridge(status=(await network.bridge()).status)


async def reboot(services: Services, actor: Actor, path: CameraPath) -> OldReboot:
    """Reboot a camera, for old dashboards."""
    return OldReboot(message=(await commands.reboot(services, actor, path)).message)
