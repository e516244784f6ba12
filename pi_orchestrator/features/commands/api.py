"""Handlers of commands and reboots."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator

from pi_orchestrator.core.actor import Actor
from pi_orchestrator.features.cameras.views import CameraPath, CameraViews
from pi_orchestrator.features.commands.model import Action
from pi_orchestrator.features.commands.reboots import RebootService
from pi_orchestrator.features.commands.service import CommandService
from pi_orchestrator.http.model import ApiModel, Message, RequestModel
from pi_orchestrator.storage import audit_log
from pi_orchestrator.storage.database import Database, Tx


class CommandRequest(RequestModel):
    """A command; `resolution` is for `set_resolution` only."""

    model_config = ConfigDict(extra="forbid")

    action: Literal["ping", "health_check", "reset", "set_resolution"] = Field(description="the command")
    resolution: str | None = Field(
        None, pattern=r"^[A-Za-z0-9_]{1,16}$", description="a frame size of the firmware, such as SVGA"
    )

    @model_validator(mode="after")
    def _check_resolution(self) -> CommandRequest:
        if (self.action == "set_resolution") is not (self.resolution is not None):
            raise ValueError("resolution is required for set_resolution and not allowed for other actions")
        return self


class CommandResult(ApiModel):
    """The answer of a camera; `answer` has its fields, shortened."""

    action: str
    request_id: str
    via: Literal["mqtt", "http"]
    answer: dict[str, Any] | None = None


async def reboot(views: CameraViews, reboots: RebootService, actor: Actor, path: CameraPath) -> Message:
    """Reboot a camera; responds once the camera has accepted. While it is `rebooting`, no second command is sent."""
    mac = views.mac_of(path.id)
    await reboots.reboot(mac, actor=actor)
    return Message(message="the camera reboots")


async def command(
    database: Database,
    views: CameraViews,
    service: CommandService,
    reboots: RebootService,
    actor: Actor,
    path: CameraPath,
    body: CommandRequest,
) -> CommandResult:
    """Send a command and wait for the answer, by MQTT. Without MQTT, `ping` and `health_check` use HTTP."""
    mac, action = views.mac_of(path.id), Action(body.action)
    fields = {"resolution": body.resolution} if body.resolution else {}
    if action is Action.RESET:
        reboots.check_not_provisioning(mac)
    with reboots.expected_restart(mac) if action is Action.RESET else nullcontext():
        result = await service.send(mac, action, **fields)

    async def job(tx: Tx) -> None:
        await audit_log.record(tx, actor, target=mac, outcome=action)

    await database.write(job)
    return CommandResult(action=action, request_id=result.request_id, via=result.via, answer=result.answer or None)
