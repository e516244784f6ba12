"""Onboarding: cameras registered automatically under a strict, rate-limited, audited policy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from pi_orchestrator.core.metrics import Metric, counter, counters, gauge
from pi_orchestrator.core.supervisor import Worker
from pi_orchestrator.features.cameras.feature import Cameras
from pi_orchestrator.features.devices.feature import Devices
from pi_orchestrator.features.feature import Feature, Resources, RetentionRule
from pi_orchestrator.features.onboarding import routes, store
from pi_orchestrator.features.onboarding.worker import OnboardingWorker
from pi_orchestrator.settings import Settings

ROUTES = routes.ROUTES
TAGS = {"onboarding": "Auto-onboarding: switch, limits, onboarding events"}
MAX_EVENTS = 200_000
OUTCOMES = ("attempts", "success", "failed", "rejected_by_policy", "already_onboarded")


@dataclass(frozen=True, kw_only=True)
class Onboarding(Feature):
    """The parts that other features use."""

    worker: OnboardingWorker


def build(res: Resources, *, devices: Devices, cameras: Cameras) -> Onboarding:
    """Build the onboarding worker."""
    settings = res.settings
    worker = OnboardingWorker(
        settings=settings.auto_onboard,
        ap_subnet=settings.ap.subnet,
        clock=res.clock,
        bus=res.bus,
        database=res.database,
        registrar=cameras.registrar,
        neighbours=devices.neighbours,
        registry=devices.registry,
        verifier=devices.verifier,
    )

    def reload(settings: Settings) -> None:
        # The target container is created at start, and loopback is for the sandbox: neither is reloadable.
        current = worker.settings
        fixed = {"target_container": current.target_container, "allow_loopback": current.allow_loopback}
        worker.reconfigure(settings.auto_onboard.model_copy(update=fixed))

    return Onboarding(
        worker=worker,
        provides=(worker,),
        workers=(Worker("onboarding", worker.run),),
        load=worker.load,
        metrics=lambda: _metrics(worker),
        reloadable=frozenset(
            f"auto_onboard.{key}"
            for key in (
                "mode",
                "triggers",
                "max_per_minute",
                "burst_size",
                "subnet_allowlist",
                "verification_timeout_sec",
                "deny",
                "overflow",
                "concurrency",
            )
        ),
        reload=reload,
        retention=retention_rules(settings),
    )


def retention_rules(settings: Settings) -> tuple[RetentionRule, ...]:
    """Retention limits of onboarding events."""
    by_age = partial(store.delete_older_than, days=settings.storage.retention_days, trusted_only=True)
    return (RetentionRule(partial(store.keep_newest, keep=MAX_EVENTS), by_age),)


def _metrics(worker: OnboardingWorker) -> Iterator[Metric]:
    outcomes = {name: getattr(worker.metrics, name) for name in OUTCOMES}
    yield counters("piorch_onboarding", "Onboarding outcomes.", "outcome", outcomes)
    yield gauge("piorch_onboarding_tokens", "Tokens left in the limiter.", worker.tokens)
    yield gauge("piorch_onboarding_waiting", "Cameras waiting for a token.", worker.waiting)
    yield gauge("piorch_onboarding_waiting_unproven", "Waiting cameras known from messages alone.", worker.unproven)
    yield counter(
        "piorch_onboarding_line_overflow", "Cameras dropped because the waiting line was full.", worker.overflowed
    )
