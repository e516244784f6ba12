"""Auto-onboarding: `/api/v1/onboarding/auto`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, WithJsonSchema

from pi_orchestrator.api.paging import MacPath, Pagination, Paging
from pi_orchestrator.api.route import Time, Wire
from pi_orchestrator.api.services import Services
from pi_orchestrator.clock import rfc3339
from pi_orchestrator.domain.mac import Mac, MacField
from pi_orchestrator.domain.onboarding import AuditEntry, Stage
from pi_orchestrator.domain.strict_json import clean_text
from pi_orchestrator.errors import FieldError
from pi_orchestrator.storage import actions, dismissed, onboarding
from pi_orchestrator.storage.actions import Actor
from pi_orchestrator.storage.database import Tx

_MOMENT = re.compile(
    r"(\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}(?::\d{2}(?:\.\d{1,9})?)?)?)(Z|z|[+ -]\d{2}:?\d{2})?", re.ASCII
)


def parse_moment(value: object) -> datetime:
    """ISO 8601 date or time → aware UTC (UTC where no offset is given); FieldError otherwise."""
    if isinstance(value, datetime):
        return value
    match = _MOMENT.fullmatch(str(value))
    try:
        if match is None:
            raise ValueError
        # In a query string an unescaped + arrives as a space.
        offset = (match[2] or "+00:00").replace(" ", "+").upper()
        return datetime.fromisoformat(match[1] + ("+00:00" if offset == "Z" else offset)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise FieldError(f"{str(value)[:40]!r} is not an ISO 8601 time such as 2026-01-22T15:00:00Z") from None


def _printable(value: str) -> str:
    return clean_text(value, max_chars=64) or ""


Moment = Annotated[datetime, BeforeValidator(parse_moment), WithJsonSchema({"type": "string", "format": "date-time"})]


class LimiterConfig(Wire):
    """The settings that decide who is onboarded, and how fast."""

    max_per_minute: int
    burst_size: int
    subnet_allowlist: list[str]
    verification_timeout_sec: int | float


class OnboardingMetrics(Wire):
    """Counters since the last reset."""

    attempts: int
    success: int
    failed: int
    rejected_by_policy: int
    already_onboarded: int
    last_success_at: Time | None = None
    last_failure_at: Time | None = None


class Status(Wire):
    """The toggle, what it works with, and what came of it; `tokens` and `waiting` show the limiter at work."""

    enabled: bool
    mode: Literal["off", "dev"]
    running: bool
    config: LimiterConfig
    metrics: OnboardingMetrics
    target_container: str
    tokens: float
    waiting: int


class Toggled(Wire):
    """What the toggle is now."""

    enabled: bool
    running: bool
    message: str


class Message(Wire):
    """That it was done."""

    message: str


class Cleaned(Wire):
    """How many rows were deleted."""

    deleted_count: int
    message: str


class AuditEvent(Wire):
    """One row of the audit trail."""

    id: int
    mac_address: str
    stage: Stage
    outcome: Literal["success", "failure"]
    error_code: str | None = None
    error_message: str | None = None
    device_id: str | None = None
    ip_address: str | None = None
    firmware_version: str | None = None
    container_id: str | None = None
    duration_ms: int | None = None
    timestamp: Time


class AuditPage(Wire):
    """A page of the audit trail, newest first."""

    events: list[AuditEvent]
    pagination: Pagination


class Rule(Wire):
    """One rule's verdict."""

    rule: str
    result: Literal["pass", "fail"]
    why: str
    code: str | None = None


class Explanation(Wire):
    """What the policy would say of a camera now, rule by rule in order."""

    mac: str
    ip: str | None = None
    allowed: bool
    rules: list[Rule]


class AuditQuery(Paging):
    """Which rows of the audit trail."""

    mac: MacField | None = None
    stage: Stage | None = None
    since: Moment | None = Field(None, description="only rows at or after this time")


class MacAuditQuery(Paging):
    """Which rows of one camera's audit trail."""

    stage: Stage | None = None
    since: Moment | None = Field(None, description="only rows at or after this time")


class CleanupQuery(BaseModel):
    """How old is old."""

    days: int = Field(90, ge=1, le=365, description="rows older than this many days are deleted")


class ExplainQuery(BaseModel):
    """Which camera to judge, and at which address."""

    mac: MacField
    ip: Annotated[str, Field(max_length=64), AfterValidator(_printable)] | None = Field(
        None, description="the address that the camera would announce"
    )


async def status(services: Services) -> Status:
    """The toggle, the configuration and the counters."""
    worker = services.onboarding
    settings, metrics = worker.settings, worker.metrics
    return Status(
        enabled=worker.enabled,
        mode=settings.mode.value,
        running=worker.running,
        config=LimiterConfig(
            max_per_minute=settings.max_per_minute,
            burst_size=settings.burst_size,
            subnet_allowlist=[str(network) for network in settings.subnet_allowlist],
            verification_timeout_sec=_plain(settings.verification_timeout_sec),
        ),
        metrics=OnboardingMetrics(
            attempts=metrics.attempts,
            success=metrics.success,
            failed=metrics.failed,
            rejected_by_policy=metrics.rejected_by_policy,
            already_onboarded=metrics.already_onboarded,
            last_success_at=rfc3339(metrics.last_success_at) if metrics.last_success_at else None,
            last_failure_at=rfc3339(metrics.last_failure_at) if metrics.last_failure_at else None,
        ),
        target_container=settings.target_container,
        tokens=round(worker.tokens, 2),
        waiting=worker.waiting,
    )


async def enable(services: Services, actor: Actor) -> Toggled:
    """Switch auto-onboarding on; 400 `ONBOARD_ENABLE_FAILED` unless the mode is `dev`."""
    await services.onboarding.enable(actor)
    return Toggled(enabled=True, running=services.onboarding.running, message="Auto-onboarding enabled")


async def disable(services: Services, actor: Actor) -> Toggled:
    """The kill switch: at once, and for good until it is enabled again."""
    await services.onboarding.disable(actor)
    return Toggled(enabled=False, running=False, message="Auto-onboarding disabled")


async def events(services: Services, query: AuditQuery) -> AuditPage:
    """The audit trail, newest first."""
    return await _page(services, query, query.mac)


async def events_of_camera(services: Services, path: MacPath, query: MacAuditQuery) -> AuditPage:
    """One camera's audit trail, newest first, with that of the hardware that it replaced."""
    return await _page(services, query, path.mac, before=await dismissed.predecessors(services.database, path.mac))


async def reset_metrics(services: Services, actor: Actor) -> Message:
    """Set the counters to zero."""
    await services.onboarding.reset_metrics(actor)
    return Message(message="Metrics reset")


async def clean_events(services: Services, query: CleanupQuery, actor: Actor) -> Cleaned:
    """Delete audit rows older than so many days."""

    async def job(tx: Tx) -> int:
        deleted = await onboarding.clean_audit(tx, days=query.days)
        await actions.record(tx, actor, target=f"{query.days} days")
        return deleted

    deleted = await services.database.write(job)
    return Cleaned(deleted_count=deleted, message=f"{deleted} events older than {query.days} days deleted")


async def explain(services: Services, query: ExplainQuery) -> Explanation:
    """What the policy would say of a camera, without doing anything."""
    verdicts = await services.onboarding.explain(query.mac, query.ip)
    return Explanation(
        mac=query.mac,
        ip=query.ip,
        allowed=all(verdict.passed for verdict in verdicts),
        rules=[
            Rule(rule=verdict.rule, result="pass" if verdict.passed else "fail", why=verdict.why, code=verdict.code)
            for verdict in verdicts
        ],
    )


def _plain(seconds: float) -> int | float:
    """A whole number without a fraction: 5.0 is no integer to every reader."""
    return int(seconds) if seconds == int(seconds) else seconds


async def _page(
    services: Services,
    query: AuditQuery | MacAuditQuery,
    mac: MacField | None,
    *,
    before: Sequence[tuple[Mac, int]] = (),
) -> AuditPage:
    page = await onboarding.audit_page(
        services.database,
        limit=query.limit,
        offset=query.offset,
        mac=mac,
        stage=query.stage,
        since=query.since,
        before=before,
    )
    return AuditPage(
        events=[_event(entry) for entry in page.entries],
        pagination=Pagination.of(query, rows=len(page.entries), total=page.total),
    )


def _event(entry: AuditEntry) -> AuditEvent:
    return AuditEvent(
        id=entry.id,
        mac_address=entry.mac,
        stage=entry.stage,
        outcome="failure" if entry.failed else "success",
        error_code=entry.code,
        error_message=entry.message,
        device_id=entry.device_id,
        ip_address=entry.ip_address,
        firmware_version=entry.firmware_version,
        container_id=entry.container_id,
        duration_ms=entry.duration_ms,
        timestamp=rfc3339(entry.at) if entry.at else "",
    )
