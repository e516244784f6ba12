"""The onboarding policy: rules evaluated in order, their explanations for operators, and rejection codes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network

from pi_orchestrator.core.error_codes import VerificationCode
from pi_orchestrator.core.errors import FieldError
from pi_orchestrator.core.ipv4 import check_camera_address
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.core.token_bucket import EPSILON
from pi_orchestrator.settings.model import AutoOnboardSettings, Mode


class RejectionCode(StrEnum):
    """Why a camera was not onboarded, other than a failed verification."""

    NOT_ENABLED = "NOT_ENABLED"
    DENIED = "DENIED"
    ALREADY_ONBOARDED = "ALREADY_ONBOARDED"
    ONBOARD_RATE_LIMITED = "ONBOARD_RATE_LIMITED"
    NO_ADDRESS = "NO_ADDRESS"
    CONTAINER_FULL = "CONTAINER_FULL"
    CONTAINER_UNKNOWN = "CONTAINER_UNKNOWN"


Code = RejectionCode | VerificationCode
"""Codes that onboarding events can have."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Settings of the rules. `own_addresses` are this machine's addresses, which no camera can have."""

    mode: Mode
    ap_subnet: IPv4Network
    subnet_allowlist: Sequence[IPv4Network]
    deny: frozenset[Mac]
    own_addresses: frozenset[IPv4Address]
    allow_loopback: bool

    @classmethod
    def of(
        cls, settings: AutoOnboardSettings, *, ap_subnet: IPv4Network, own_addresses: frozenset[IPv4Address]
    ) -> Policy:
        """The policy by the settings."""
        return cls(
            mode=settings.mode,
            ap_subnet=ap_subnet,
            subnet_allowlist=settings.subnet_allowlist,
            deny=frozenset(settings.deny),
            own_addresses=own_addresses,
            allow_loopback=settings.allow_loopback,
        )


@dataclass(frozen=True, slots=True)
class Facts:
    """Input of the rules for one camera. `registered`: by onboarding or by an operator."""

    mac: Mac
    ip: str | None
    enabled: bool
    registered: bool
    tokens: float
    exclusion_reason: str | None = None
    """Why an operator has excluded it; None if not excluded."""


@dataclass(frozen=True, slots=True)
class RuleResult:
    """Result of one rule. `code` is set if it failed; `why` is the explanation for operators."""

    rule: str
    passed: bool
    why: str
    code: Code | None = None


def evaluate(policy: Policy, facts: Facts) -> Iterator[RuleResult]:
    """Yield the result of every rule in the documented order; the first failed rule decides."""
    yield _result(
        "enabled", facts.enabled, "auto-onboarding is enabled", "auto-onboarding is disabled", RejectionCode.NOT_ENABLED
    )
    yield _result(
        "mode",
        policy.mode is Mode.DEV,
        "auto_onboard.mode is 'dev'",
        f"auto_onboard.mode is '{policy.mode}'",
        RejectionCode.NOT_ENABLED,
    )
    yield _subnet(policy, facts.ip)
    denial_reason = "on the deny list" if facts.mac in policy.deny else facts.exclusion_reason
    yield _result(
        "deny",
        denial_reason is None,
        "neither on the deny list nor excluded",
        denial_reason or "",
        RejectionCode.DENIED,
    )
    yield _result(
        "already_onboarded",
        not facts.registered,
        "not registered yet",
        "already registered",
        RejectionCode.ALREADY_ONBOARDED,
    )
    yield _result(
        "rate",
        facts.tokens >= 1 - EPSILON,
        f"{facts.tokens:.1f} tokens left",
        "the rate limit is reached; the camera waits in line for the next token",
        RejectionCode.ONBOARD_RATE_LIMITED,
    )


def first_failed_rule(policy: Policy, facts: Facts) -> RuleResult | None:
    """The first failed rule; None if all pass."""
    return next((result for result in evaluate(policy, facts) if not result.passed), None)


def _result(rule: str, passed: bool, why_passed: str, why_failed: str, code: Code) -> RuleResult:
    return RuleResult(rule, passed, why_passed if passed else why_failed, None if passed else code)


def _subnet(policy: Policy, ip: str | None) -> RuleResult:
    if ip is None:
        return RuleResult("subnet", passed=False, why="the camera reported no address", code=RejectionCode.NO_ADDRESS)
    try:
        check_camera_address(
            ip,
            ap_subnet=policy.ap_subnet,
            allowed=policy.subnet_allowlist,
            own=policy.own_addresses,
            allow_loopback=policy.allow_loopback,
        )
    except FieldError as error:
        return RuleResult("subnet", passed=False, why=str(error), code=VerificationCode.SUBNET_NOT_ALLOWED)
    return RuleResult("subnet", passed=True, why=f"{ip} is a host of the camera network")
