"""The error hierarchy. Each error has a code of the catalogue and a text for the operator."""

from __future__ import annotations

from typing import ClassVar

from pi_orchestrator.core.error_codes import ErrorCode, LocalCode, VerificationCode


class OrchestratorError(Exception):
    """Base of every expected failure: `code` from the catalogue, `message` and `details` for the operator."""

    code: str = ErrorCode.INTERNAL_ERROR
    http_status: int | None = None
    """Overrides the HTTP status of `code`, for codes that are used with several statuses."""
    is_audited = False
    """Whether the failed operator action is already in the audit log."""

    @property
    def retryable(self) -> bool:
        """Whether waiting alone can help: the same request may succeed later."""
        member = ErrorCode.__members__.get(self.code)
        return member is not None and member.retryable

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        details: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.details = details
        self.retry_after_s = retry_after_s
        if code is not None:
            self.code = code


class FieldError(ValueError):
    """An invalid value of a field; the text says what is expected.

    The error of a request has this `code` if all invalid fields of the request have it.
    """

    code: str = ErrorCode.VALIDATION_FAILED


class SettingsError(OrchestratorError):
    """The configuration is invalid; `problems` lists every fault, one line each."""

    code: str = LocalCode.CONFIG_INVALID
    summary: ClassVar[str] = "the configuration is not valid"

    def __init__(self, problems: list[str]) -> None:
        super().__init__(self.summary, details="; ".join(problems))
        self.problems = problems


class ArgumentsError(SettingsError):
    """The arguments of a command are invalid; `problems` lists every fault, one line each."""

    summary: ClassVar[str] = "the arguments are not valid"


class StartupError(OrchestratorError):
    """The environment prevents the daemon from starting; `remedy` says how to fix it."""

    code: str = LocalCode.STARTUP_FAILED

    def __init__(self, message: str, *, remedy: str) -> None:
        super().__init__(message, details=remedy)
        self.remedy = remedy


class ValidationFailedError(OrchestratorError):
    """Invalid fields in a request; `details` lists all of them."""

    code: str = ErrorCode.VALIDATION_FAILED


class InvalidRequestError(OrchestratorError):
    """A request that cannot be parsed or served."""

    code: str = ErrorCode.INVALID_REQUEST


class UnauthorizedError(OrchestratorError):
    """API key missing or invalid."""

    code: str = ErrorCode.UNAUTHORIZED


class ForbiddenError(OrchestratorError):
    """Not allowed with this key, host or origin."""

    code: str = ErrorCode.FORBIDDEN


class NotFoundError(OrchestratorError):
    """No such resource; `code` may name its kind."""

    code: str = ErrorCode.NOT_FOUND


class ConflictError(OrchestratorError):
    """The current state of the resource does not allow this."""

    code: str = ErrorCode.CONFLICT


class RateLimitedError(OrchestratorError):
    """Too many requests."""

    code: str = ErrorCode.RATE_LIMITED


class NetworkError(OrchestratorError):
    """The camera network is not available."""

    code: str = ErrorCode.NETWORK_ERROR


class MqttUnavailableError(OrchestratorError):
    """MQTT broker not connected: no message of a camera can be received."""

    code: str = ErrorCode.MQTT_UNAVAILABLE


class CircuitOpenError(OrchestratorError):
    """Paused after repeated failures."""

    code: str = ErrorCode.CIRCUIT_OPEN


class OnboardEnableError(OrchestratorError):
    """Auto-onboarding cannot be enabled as configured."""

    code: str = ErrorCode.ONBOARD_ENABLE_FAILED


class StorageError(OrchestratorError):
    """A database read or write failed."""

    code: str = ErrorCode.DATABASE_ERROR


class VerificationError(OrchestratorError):
    """It is not proved that the camera holds the address."""

    code: VerificationCode

    def __init__(self, message: str, *, code: VerificationCode) -> None:
        super().__init__(message, code=code)


class ProvisionError(OrchestratorError):
    """A camera did not accept credentials; `may_have_arrived` is False only if the camera certainly did not use them.

    `code` is DEVICE_REJECTED, DEVICE_TIMEOUT, or DEVICE_UNREACHABLE (no connection, or no usable answer).
    """

    def __init__(self, message: str, *, code: str, may_have_arrived: bool) -> None:
        super().__init__(message, code=code)
        self.may_have_arrived = may_have_arrived


class CameraOfflineError(OrchestratorError):
    """The camera is offline."""

    code: str = ErrorCode.CAMERA_OFFLINE


class CaptureError(OrchestratorError):
    """A capture failed; `code` is CAPTURE_TIMEOUT or CAPTURE_FAILED.

    `final`: another transport would fail too. `is_camera_fault`: the camera caused the failure.
    """

    code: str = ErrorCode.CAPTURE_FAILED

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        details: str | None = None,
        retry_after_s: float | None = None,
        final: bool = False,
        is_camera_fault: bool = True,
    ) -> None:
        super().__init__(message, code=code, details=details, retry_after_s=retry_after_s)
        self.final = final
        self.is_camera_fault = is_camera_fault


class CommandError(OrchestratorError):
    """A camera did not carry out a command; `code` is DEVICE_REJECTED or DEVICE_TIMEOUT."""

    code: str = ErrorCode.DEVICE_REJECTED


class RebootError(OrchestratorError):
    """A camera did not accept a reboot command."""

    code: str = ErrorCode.REBOOT_FAILED
