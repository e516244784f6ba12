"""Health, readiness, version and metrics."""

from __future__ import annotations

from pi_orchestrator import __version__
from pi_orchestrator.core.health import Health as HealthRegister
from pi_orchestrator.core.health import State
from pi_orchestrator.http.metrics import MetricsPage
from pi_orchestrator.http.model import ApiModel
from pi_orchestrator.http.route import Reply


class Health(ApiModel):
    """Answer of `/health`, for old clients too."""

    status: str
    version: str


class Alive(ApiModel):
    """Answer of `/healthz`."""

    status: str


class Ready(ApiModel):
    """Whether the daemon is ready.

    `checks`: false for each component that has a fault, even if it still works.
    `errors`: a text for each false check.
    """

    ready: bool
    checks: dict[str, bool]
    errors: list[str]


class Version(ApiModel):
    """The program's version."""

    version: str


async def health() -> Health:
    """Answers as long as the daemon runs."""
    return Health(status="ok", version=__version__)


async def healthz() -> Alive:
    """Liveness: answers as long as the event loop runs."""
    return Alive(status="ok")


async def readyz(health: HealthRegister) -> Reply[Ready]:
    """Readiness: 503 while an essential component is starting or does not work."""
    parts = [part for part in health.components() if part.state is not State.OFF]
    ready = health.is_ready()
    answer = Ready(
        ready=ready,
        checks={part.name: part.state is State.OK for part in parts},
        errors=[f"{part.name}: {part.reason or part.state}" for part in parts if part.state is not State.OK],
    )
    return Reply(answer, status=200 if ready else 503)


async def version() -> Version:
    """The program's version."""
    return Version(version=__version__)


async def metrics(page: MetricsPage) -> Reply[str]:
    """All metrics, as Prometheus text."""
    return Reply(encoded=await page.render())
