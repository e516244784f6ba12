"""Answers for old dashboards that differ from the current answers in more than the envelope."""

from __future__ import annotations

from typing import Literal

from pi_orchestrator.core.actor import Actor
from pi_orchestrator.features.cameras.views import CameraList, CameraPath, CameraViews
from pi_orchestrator.features.commands import api as commands
from pi_orchestrator.features.commands.reboots import RebootService
from pi_orchestrator.features.network import api as network
from pi_orchestrator.features.network.api import BridgeView
from pi_orchestrator.http.model import Message
from pi_orchestrator.http.route import Reply


class OldCameraList(CameraList):
    """Live cameras, for old dashboards."""

    success: Literal[True] = True


class OldBridge(BridgeView):
    """Status of the upstream gateway, for old dashboards."""

    success: Literal[True] = True


class OldReboot(Message):
    """Result of a reboot, for old dashboards."""

    success: Literal[True] = True


async def cameras(views: CameraViews) -> Reply[OldCameraList]:
    """Live cameras, for old dashboards."""
    return Reply(encoded=views.encoded_list()[:-1] + b',"success":true}')


async def bridge() -> OldBridge:
    """Status of the upstream gateway, for old dashboards."""
    return OldBridge(status=(await network.bridge()).status)


async def reboot(views: CameraViews, reboots: RebootService, actor: Actor, path: CameraPath) -> OldReboot:
    """Reboot a camera, for old dashboards."""
    return OldReboot(message=(await commands.reboot(views, reboots, actor, path)).message)
