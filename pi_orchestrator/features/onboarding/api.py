"""Auto-onboarding: `/api/v1/onboarding/auto`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from pi_orchestrator.core.actor import Actor
from pi_orchestrator.core.clock import Clock, rfc3339
from pi_orchestrator.core.errors import FieldError
from pi_orchestrator.core.mac import Mac, MacField
from pi_orchestrator.core.validation import clean_text
from pi_orchestrator.features.cameras import exclusion_store
from pi_orchestrator.features.cameras.error_views import OnboardingFailureView
from pi_orchestrator.features.cameras.views import CameraViews
from pi_orchestrator.features.devices.registry import DeviceRegistry
from pi_orchestrator.features.devices.unreadable import UnreadableMessages
from pi_orchestrator.features.devices.views import name_notes
from pi_orchestrator.features.onboarding import store
from pi_orchestrator.features.onboarding.onboarding_event import OnboardingEvent, Stage
from pi_orchestrator.features.onboarding.worker import OnboardingWorker
from pi_orchestrator.http.model import ApiModel, Message, RequestModel, Time
from pi_orchestrator.http.paging import MacPath, Pagination, Paging
from pi_orchestrator.storage import audit_log
from pi_orchestrator.storage.database import Database, Tx

_ISO_TIME = re.compile(
    r"(\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}(?::\d{2}(?:\.\d{1,9})?)?)?)(Z|z|[+ -]\d{2}:?\d{2})?", re.ASCII
)


def parse_iso_time(value: object) -> datetime:
    """ISO 8601 date or time → aware UTC; a time without an offset is UTC. FieldError for anything else."""
    if isinstance(value, datetime):
        return value
    match = _ISO_TIME.fullmatch(str(value))
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


IsoTime = Annotated[
    datetime, BeforeValidator(parse_iso_time), WithJsonSchema({"type": "string", "format": "date-time"})
]


class LimiterConfig(ApiModel):
    """The settings that limit what is onboarded, and how fast."""

    max_per_minute: int
    burst_size: int
    subnet_allowlist: list[str]
    verification_timeout_sec: int | float


class OnboardingMetrics(ApiModel):
    """Counters since the last reset.

    `attempts` are the verifications that began. `failed` and `rejected_by_policy` also count cameras without an
    attempt, and `already_onboarded` counts registered cameras that appeared again.
    """

    attempts: int
    success: int
    failed: int
    rejected_by_policy: int
    already_onboarded: int
    last_success_at: Time | None = None
    last_failure_at: Time | None = None


class Status(ApiModel):
    """Toggle, settings and counters.

    `running`: enabled, in the mode `dev`, and started. `tokens`: attempts that may start now. `waiting`: cameras that
    wait for a token; `waiting_unproven`: those of them that are known from messages alone, they wait behind the others.
    `dropped`: how often a camera found no place in the line, since the start.
    """

    enabled: bool
    mode: Literal["off", "dev"]
    running: bool
    config: LimiterConfig
    metrics: OnboardingMetrics
    target_container: str
    tokens: float
    waiting: int
    waiting_unproven: int
    dropped: int


class ToggleResult(ApiModel):
    """State of the toggle after the change."""

    enabled: bool
    running: bool
    message: str


class CleanupResult(ApiModel):
    """Number of deleted events."""

    deleted_count: int
    message: str


class AuditEvent(ApiModel):
    """One onboarding event."""

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


class AuditPage(ApiModel):
    """A page of onboarding events, newest first."""

    events: list[AuditEvent]
    pagination: Pagination


class Rule(ApiModel):
    """The result of one rule."""

    rule: str
    result: Literal["pass", "fail"]
    why: str
    code: str | None = None


class Waiting(ApiModel):
    """The place of a camera in the waiting line, 1 for the next one.

    `proven`: a device on the camera network answered for it; a camera known from messages alone waits behind those.
    """

    position: int
    proven: bool
    seconds_to_token: float


class Explanation(ApiModel):
    """The policy's result for a camera now, rule by rule in order.

    The rule `retry` is listed only after a failed attempt, which `onboarding_failure` describes. `waiting`: only while
    the camera waits for a token. `unreadable`: status messages that could not be read, from this camera or, if there
    are none, from unknown senders; a camera that sends only such messages is not evaluated, whatever the rules say.
    `notes`: what is wrong with its names.
    """

    mac: str
    ip: str | None = None
    allowed: bool
    rules: list[Rule]
    unreadable: list[str]
    waiting: Waiting | None = None
    onboarding_failure: OnboardingFailureView | None = None
    notes: list[str]


class AuditQuery(Paging):
    """Filters of onboarding events."""

    mac: MacField | None = None
    stage: Stage | None = None
    since: IsoTime | None = Field(None, description="only events at or after this time")


class MacAuditQuery(Paging):
    """Filters of one camera's onboarding events."""

    stage: Stage | None = None
    since: IsoTime | None = Field(None, description="only events at or after this time")


class CleanupQuery(RequestModel):
    """Age limit of a cleanup."""

    days: int = Field(90, ge=1, le=365, description="events older than this many days are deleted")


class ExplainQuery(RequestModel):
    """The camera to evaluate, and its address."""

    mac: MacField
    ip: Annotated[str, Field(max_length=64), AfterValidator(_printable)] | None = Field(
        None, description="address that the camera would report"
    )


async def status(worker: OnboardingWorker) -> Status:
    """The toggle, the configuration and the counters."""
    settings, metrics = worker.settings, worker.metrics
    return Status(
        enabled=worker.enabled,
        mode=settings.mode.value,
        running=worker.running,
        config=LimiterConfig(
            max_per_minute=settings.max_per_minute,
            burst_size=settings.burst_size,
            subnet_allowlist=[str(network) for network in settings.subnet_allowlist],
            verification_timeout_sec=_json_number(settings.verification_timeout_sec),
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
        waiting_unproven=worker.unproven,
        dropped=worker.overflowed,
    )


async def enable(worker: OnboardingWorker, actor: Actor) -> ToggleResult:
    """Switch auto-onboarding on; 400 `ONBOARD_ENABLE_FAILED` unless the mode is `dev`."""
    await worker.enable(actor)
    return ToggleResult(enabled=True, running=worker.running, message="Auto-onboarding enabled")


async def disable(worker: OnboardingWorker, actor: Actor) -> ToggleResult:
    """Kill switch: disables onboarding immediately; it stays disabled, also over restarts, until it is enabled."""
    await worker.disable(actor)
    return ToggleResult(enabled=False, running=False, message="Auto-onboarding disabled")


async def events(database: Database, query: AuditQuery) -> AuditPage:
    """The onboarding events, newest first."""
    return await _page(database, query, query.mac)


async def events_of_camera(database: Database, path: MacPath, query: MacAuditQuery) -> AuditPage:
    """One camera's onboarding events, newest first, including those of the hardware it replaced."""
    predecessors = await exclusion_store.predecessors(database, path.mac)
    return await _page(database, query, path.mac, predecessors=predecessors)


async def reset_metrics(worker: OnboardingWorker, actor: Actor) -> Message:
    """Set the counters to zero."""
    await worker.reset_metrics(actor)
    return Message(message="Metrics reset")


async def clean_events(database: Database, query: CleanupQuery, actor: Actor) -> CleanupResult:
    """Delete onboarding events older than `days`."""

    async def job(tx: Tx) -> int:
        deleted = await store.delete_older_than(tx, days=query.days)
        await audit_log.record(tx, actor, target=f"{query.days} days")
        return deleted

    deleted = await database.write(job)
    return CleanupResult(deleted_count=deleted, message=f"{deleted} events older than {query.days} days deleted")


async def explain(
    worker: OnboardingWorker,
    messages: UnreadableMessages,
    views: CameraViews,
    registry: DeviceRegistry,
    clock: Clock,
    query: ExplainQuery,
) -> Explanation:
    """The policy's result for a camera, without side effects."""
    results = await worker.explain(query.mac, query.ip)
    device = registry.get(query.mac)
    return Explanation(
        mac=query.mac,
        ip=query.ip,
        allowed=all(result.passed for result in results),
        rules=[
            Rule(rule=result.rule, result="pass" if result.passed else "fail", why=result.why, code=result.code)
            for result in results
        ],
        unreadable=messages.about(query.mac, clock.monotonic()),
        waiting=_waiting(worker, query.mac),
        onboarding_failure=views.onboarding_failure(query.mac),
        notes=name_notes(registry, device) if device else [],
    )


def _waiting(worker: OnboardingWorker, mac: Mac) -> Waiting | None:
    line, position = worker.line, worker.line.position(mac)
    if position is None:
        return None
    seconds = round(line.start_in_s(position), 1)
    return Waiting(position=position, proven=line.is_proven(mac), seconds_to_token=seconds)


def _json_number(seconds: float) -> int | float:
    """5.0 → 5: not every JSON parser reads 5.0 as an integer."""
    return int(seconds) if seconds == int(seconds) else seconds


async def _page(
    database: Database,
    query: AuditQuery | MacAuditQuery,
    mac: MacField | None,
    *,
    predecessors: Sequence[tuple[Mac, int]] = (),
) -> AuditPage:
    page = await store.page(
        database,
        limit=query.limit,
        offset=query.offset,
        mac=mac,
        stage=query.stage,
        since=query.since,
        predecessors=predecessors,
    )
    return AuditPage(
        events=[_event(event) for event in page.events],
        pagination=Pagination.of(query, rows=len(page.events), total=page.total),
    )


def _event(event: OnboardingEvent) -> AuditEvent:
    return AuditEvent(
        id=event.id,
        mac_address=event.mac,
        stage=event.stage,
        outcome="failure" if event.failed else "success",
        error_code=event.code,
        error_message=event.message,
        device_id=event.device_id,
        ip_address=event.ip_address,
        firmware_version=event.firmware_version,
        container_id=event.container_id,
        duration_ms=event.duration_ms,
        timestamp=rfc3339(event.at) if event.at else "",
    )
