"""What an operator can do about a failed onboarding attempt, by its code."""

from __future__ import annotations

from typing import Final

from pi_orchestrator.core.error_codes import VerificationCode
from pi_orchestrator.features.onboarding.policy import Code, RejectionCode

INTERNAL: Final = "see the daemon's log, and report it with the support bundle"
_REMEDIES: Final[dict[Code, str]] = {
    VerificationCode.TIMEOUT: "check the camera's signal and power; for slow firmware, raise"
    " auto_onboard.verification_timeout_sec",
    VerificationCode.UNREACHABLE: "check that the camera listens on cameras.http_port and that the access point does"
    " not isolate its clients",
    VerificationCode.BAD_STATUS: "GET /status of the camera must answer 200: reboot it, or update its firmware",
    VerificationCode.BAD_BODY: "GET /status of the camera must answer a JSON object: update its firmware, or pair it"
    " manually",
    VerificationCode.MAC_MISMATCH: "check whether two devices use this address or this MAC",
    VerificationCode.SUBNET_NOT_ALLOWED: "correct auto_onboard.subnet_allowlist or ap.subnet, or the camera's address",
    RejectionCode.CONTAINER_FULL: "remove a camera from the target container, or set auto_onboard.overflow",
    RejectionCode.CONTAINER_UNKNOWN: "create the container, or correct auto_onboard.target_container",
}


def remedy_for(code: Code | None) -> str:
    """The remedy for a code; without a code, or for one without a remedy, what to do about an internal error."""
    return _REMEDIES.get(code, INTERNAL) if code else INTERNAL
