"""The one error tree. An error is data: a stable code, whether a repeat can help, and text for people.

Nothing here knows of HTTP; `api/envelope.py` gives each code its status.
"""

from __future__ import annotations


class OrchestratorError(Exception):
    """Base of every expected failure; `code` is stable, `message` and `details` are for people."""

    code = "INTERNAL_ERROR"
    retryable = False
    on_record = False
    """Whether the operator's action that failed by it is on record already."""

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
    """A value that is not what its field holds; the text says what would be.

    `code` is what a request is refused with that has no other fault.
    """

    code = "VALIDATION_FAILED"


class SettingsError(OrchestratorError):
    """The configuration is wrong; `problems` lists every fault as one line."""

    code = "CONFIG_INVALID"

    def __init__(self, problems: list[str]) -> None:
        super().__init__("the configuration is not valid", details="; ".join(problems))
        self.problems = problems


class StartupError(OrchestratorError):
    """Something outside stops the daemon from starting; `remedy` says how to mend it."""

    code = "STARTUP_FAILED"

    def __init__(self, message: str, *, remedy: str) -> None:
        super().__init__(message, details=remedy)
        self.remedy = remedy


class ValidationFailedError(OrchestratorError):
    """A request names fields that are wrong; `details` names them all."""

    code = "VALIDATION_FAILED"


class InvalidRequestError(OrchestratorError):
    """A request that cannot be read at all."""

    code = "INVALID_REQUEST"


class UnauthorizedError(OrchestratorError):
    """No key, or a wrong one."""

    code = "UNAUTHORIZED"


class ForbiddenError(OrchestratorError):
    """A key, host or origin that may not do this."""

    code = "FORBIDDEN"


class NotFoundError(OrchestratorError):
    """No such thing; `code` may say which kind."""

    code = "NOT_FOUND"


class ConflictError(OrchestratorError):
    """The thing is in a state that does not allow this."""

    code = "CONFLICT"


class RateLimitedError(OrchestratorError):
    """Too much, too fast."""

    code = "RATE_LIMITED"
    retryable = True


class NetworkError(OrchestratorError):
    """The camera network cannot be reached from here just now."""

    code = "NETWORK_ERROR"
    retryable = True


class MqttUnavailableError(OrchestratorError):
    """Nothing can be heard of cameras: the broker is away."""

    code = "MQTT_UNAVAILABLE"
    retryable = True


class CircuitOpenError(OrchestratorError):
    """It has failed so often that it is left alone for a while."""

    code = "CIRCUIT_OPEN"
    retryable = True


class OnboardEnableError(OrchestratorError):
    """Auto-onboarding may not be enabled as things are configured."""

    code = "ONBOARD_ENABLE_FAILED"


class StorageError(OrchestratorError):
    """The database refused a read or a write."""

    code = "DATABASE_ERROR"


class OnboardingError(OrchestratorError):
    """One camera's onboarding failed; `code` is an audit code of the contract."""


class ProvisionError(OrchestratorError):
    """A camera did not accept credentials; `may_have_arrived` unless it is sure that it did not act on them.

    `code` is DEVICE_REJECTED (it said no), DEVICE_TIMEOUT, or DEVICE_UNREACHABLE (no connection, no usable answer).
    """

    retryable = True

    def __init__(self, message: str, *, code: str, may_have_arrived: bool) -> None:
        super().__init__(message, code=code)
        self.may_have_arrived = may_have_arrived


class CameraOfflineError(OrchestratorError):
    """The camera is known to be away."""

    code = "CAMERA_OFFLINE"
    retryable = True


class CaptureError(OrchestratorError):
    """No picture; `code` is CAPTURE_TIMEOUT or CAPTURE_FAILED.

    `final` where another way would get none either, `ours` where the camera is not to blame.
    """

    code = "CAPTURE_FAILED"
    retryable = True

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        details: str | None = None,
        retry_after_s: float | None = None,
        final: bool = False,
        ours: bool = False,
    ) -> None:
        super().__init__(message, code=code, details=details, retry_after_s=retry_after_s)
        self.final = final
        self.ours = ours


class CommandError(OrchestratorError):
    """A camera did not do what it was told; `code` is DEVICE_REJECTED or DEVICE_TIMEOUT."""

    code = "DEVICE_REJECTED"
    retryable = True


class RebootError(OrchestratorError):
    """A camera did not take the order to reboot."""

    code = "REBOOT_FAILED"
    retryable = True
