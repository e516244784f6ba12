"""Health: for people, for load balancers, for systemd and for Prometheus."""

from __future__ import annotations

from pi_orchestrator import __version__
from pi_orchestrator.api.route import Reply, Wire
from pi_orchestrator.api.services import Services
from pi_orchestrator.health import State


class Health(Wire):
    """The plain answer that old clients look for."""

    status: str
    version: str


class Alive(Wire):
    """The event loop runs."""

    status: str


class Ready(Wire):
    """Whether the daemon can do its work; each check by name, and what is wrong in words."""

    ready: bool
    checks: dict[str, bool]
    errors: list[str]


class Version(Wire):
    """The program's version."""

    version: str


async def health() -> Health:
    """Answers as long as the daemon runs."""
    return Health(status="ok", version=__version__)


async def healthz() -> Alive:
    """Liveness: answers as long as the event loop runs."""
    return Alive(status="ok")


async def readyz(services: Services) -> Reply[Ready]:
    """Readiness: 503 while a part fails that the daemon cannot work without."""
    parts = [part for part in services.health.components() if part.state is not State.OFF]
    ready = services.health.ready()
    answer = Ready(
        ready=ready,
        checks={part.name: part.state is State.OK for part in parts},
        errors=[f"{part.name}: {part.reason or part.state}" for part in parts if part.state is not State.OK],
    )
    return Reply(answer, status=200 if ready else 503)


async def version() -> Version:
    """The program's version."""
    return Version(version=__version__)


async def metrics(services: Services) -> Reply[str]:
    """Everything that is counted, as Prometheus text."""
    return Reply(encoded=await services.metrics.render())
