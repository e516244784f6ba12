"""Auto-onboarding: its words, and its policy as a list of rules that can be run and explained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network

from pi_orchestrator.domain.address import check_camera_address
from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.errors import FieldError


class Mode(StrEnum):
    """Whether auto-onboarding is allowed on this installation at all."""

    OFF = "off"
    DEV = "dev"


class Overflow(StrEnum):
    """What happens when the target container is full."""

    NEW_CONTAINER = "new_container"
    REJECT = "reject"


class Stage(StrEnum):
    """The stages of the audit trail."""

    DISCOVERED = "discovered"
    VERIFIED = "verified"
    REGISTERED = "registered"
    PAIRED = "paired"
    FAILED = "failed"
    REJECTED = "rejected_by_policy"


class Code(StrEnum):
    """Why an onboarding did not succeed."""

    NOT_ENABLED = "NOT_ENABLED"
    SUBNET_NOT_ALLOWED = "SUBNET_NOT_ALLOWED"
    DENIED = "DENIED"
    ALREADY_ONBOARDED = "ALREADY_ONBOARDED"
    ONBOARD_RATE_LIMITED = "ONBOARD_RATE_LIMITED"
    NO_ADDRESS = "NO_ADDRESS"
    VERIFY_TIMEOUT = "VERIFY_TIMEOUT"
    VERIFY_UNREACHABLE = "VERIFY_UNREACHABLE"
    VERIFY_BAD_STATUS = "VERIFY_BAD_STATUS"
    VERIFY_BAD_BODY = "VERIFY_BAD_BODY"
    MAC_MISMATCH = "MAC_MISMATCH"
    CONTAINER_FULL = "CONTAINER_FULL"
    CONTAINER_UNKNOWN = "CONTAINER_UNKNOWN"


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One row of the onboarding audit; `id` is 0 and `at` None until it is stored."""

    mac: Mac
    stage: Stage
    code: Code | None = None
    message: str | None = None
    device_id: str | None = None
    ip_address: str | None = None
    firmware_version: str | None = None
    container_id: str | None = None
    duration_ms: int | None = None
    id: int = 0
    at: datetime | None = None

    @property
    def failed(self) -> bool:
        """Whether this row ends an onboarding without a pairing."""
        return self.stage in (Stage.FAILED, Stage.REJECTED)


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules' settings; `own` are this machine's addresses, which no camera can have."""

    mode: Mode
    ap_subnet: IPv4Network
    subnet_allowlist: Sequence[IPv4Network]
    deny: frozenset[Mac]
    own: frozenset[IPv4Address]
    allow_loopback: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """What the rules look at for one camera at one moment; `dismissed` says why an operator has taken it out."""

    mac: Mac
    ip: str | None
    enabled: bool
    registered: bool
    tokens: float
    dismissed: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one rule says: `passed`, or the code, and why in words."""

    rule: str
    passed: bool
    why: str
    code: Code | None = None


def judge(policy: Policy, facts: Facts) -> Iterator[Verdict]:
    """Every rule's verdict, in the contract's order; the first that fails decides."""
    yield _verdict("enabled", facts.enabled, "auto-onboarding is switched on", "it is switched off", Code.NOT_ENABLED)
    yield _verdict(
        "mode",
        policy.mode is Mode.DEV,
        "auto_onboard.mode is 'dev'",
        f"auto_onboard.mode is '{policy.mode}'",
        Code.NOT_ENABLED,
    )
    yield _subnet(policy, facts.ip)
    denied = "on the deny list" if facts.mac in policy.deny else facts.dismissed
    yield _verdict("deny", denied is None, "not on the deny list, nor taken out", denied or "", Code.DENIED)
    yield _verdict(
        "already_onboarded",
        not facts.registered,
        "not registered yet",
        "registered already",
        Code.ALREADY_ONBOARDED,
    )
    yield _verdict(
        "rate",
        facts.tokens >= 1 - 1e-9,
        f"{facts.tokens:.1f} tokens left",
        "no token left; it waits in line",
        Code.ONBOARD_RATE_LIMITED,
    )


def first_refusal(policy: Policy, facts: Facts) -> Verdict | None:
    """The rule that stops this camera, or None when all pass."""
    return next((verdict for verdict in judge(policy, facts) if not verdict.passed), None)


def _verdict(rule: str, passed: bool, yes: str, no: str, code: Code) -> Verdict:
    return Verdict(rule, passed, yes if passed else no, None if passed else code)


def _subnet(policy: Policy, ip: str | None) -> Verdict:
    if ip is None:
        return Verdict("subnet", passed=False, why="the camera gave no address", code=Code.NO_ADDRESS)
    try:
        check_camera_address(
            ip,
            ap_subnet=policy.ap_subnet,
            allowed=policy.subnet_allowlist,
            own=policy.own,
            allow_loopback=policy.allow_loopback,
        )
    except FieldError as error:
        return Verdict("subnet", passed=False, why=str(error), code=Code.SUBNET_NOT_ALLOWED)
    return Verdict("subnet", passed=True, why=f"{ip} is a host of the camera network")
