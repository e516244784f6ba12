"""What an operator tells a camera to do."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pi_orchestrator.api.cameras import CameraPath
from pi_orchestrator.api.onboarding import Message
from pi_orchestrator.api.route import Wire
from pi_orchestrator.api.services import Services
from pi_orchestrator.domain.command import Action
from pi_orchestrator.storage import actions
from pi_orchestrator.storage.actions import Actor
from pi_orchestrator.storage.database import Tx


class CommandRequest(BaseModel):
    """A command; `resolution` belongs to `set_resolution` alone."""

    model_config = ConfigDict(extra="forbid")

    action: Literal["ping", "health_check", "reset", "set_resolution"] = Field(description="what it is to do")
    resolution: str | None = Field(
        None, pattern=r"^[A-Za-z0-9_]{1,16}$", description="a frame size in the firmware's words, such as SVGA"
    )

    @model_validator(mode="after")
    def _resolution_goes_with_its_action(self) -> CommandRequest:
        if (self.action == "set_resolution") is not (self.resolution is not None):
            raise ValueError("resolution is given with set_resolution, and only with it")
        return self


class CommandResult(Wire):
    """What the camera answered; `answer` holds its own words, shortened."""

    action: str
    request_id: str
    via: Literal["mqtt", "http"]
    answer: dict[str, Any] | None = None


async def reboot(services: Services, actor: Actor, path: CameraPath) -> Message:
    """Reboot a camera; answered once it has accepted. It is `rebooting` until it is back, and told only once."""
    mac = services.views.find(path.id)
    await services.reboots.ask(mac, actor=actor)
    return Message(message="the camera reboots")


async def command(services: Services, actor: Actor, path: CameraPath, body: CommandRequest) -> CommandResult:
    """Tell a camera one thing and wait for its answer: by MQTT, or by HTTP where that will do."""
    mac, action = services.views.find(path.id), Action(body.action)
    if action is Action.RESET:
        services.reboots.check_free(mac)
    fields = {"resolution": body.resolution} if body.resolution else {}
    answered = await services.commands.give(mac, action, **fields)

    async def job(tx: Tx) -> None:
        await actions.record(tx, actor, target=mac, outcome=action)

    await services.database.write(job)
    return CommandResult(
        action=action, request_id=answered.request_id, via=answered.via, answer=answered.answer or None
    )
