"""The catalogue of error codes: HTTP status, default message, and whether a retry can help.

A new code is one line here. The envelope, the OpenAPI document, the command line and the console page read it.
"""

from __future__ import annotations

from enum import StrEnum

RETRY_AFTER_S = 5.0


class ErrorCode(StrEnum):
    """A code of the API: HTTP status, default message, seconds before a retry (None: waiting alone does not help)."""

    status: int
    message: str
    retry_after_s: float | None

    def __new__(cls, code: str, status: int, message: str, retry_after_s: float | None = None) -> ErrorCode:
        """Build a member from its line in the catalogue."""
        member = str.__new__(cls, code)
        member._value_ = code
        member.status, member.message, member.retry_after_s = status, message, retry_after_s
        return member

    @property
    def retryable(self) -> bool:
        """Whether waiting alone can help: the same request may succeed later."""
        return self.retry_after_s is not None

    VALIDATION_FAILED = "VALIDATION_FAILED", 400, "Validation failed"
    INVALID_REQUEST = "INVALID_REQUEST", 400, "The request cannot be read"
    ONBOARD_ENABLE_FAILED = "ONBOARD_ENABLE_FAILED", 400, "Auto-onboarding cannot be enabled as configured"
    INVALID_POSITION = "INVALID_POSITION", 400, "A position is a whole number from 1 to 4"
    UNAUTHORIZED = "UNAUTHORIZED", 401, "An API key is required"
    FORBIDDEN = "FORBIDDEN", 403, "Not allowed with this key, host or origin"
    DEVICE_NOT_IN_ALLOWLIST = "DEVICE_NOT_IN_ALLOWLIST", 403, "The device is not on the allowlist"
    NOT_FOUND = "NOT_FOUND", 404, "Not found"
    CAMERA_NOT_FOUND = "CAMERA_NOT_FOUND", 404, "No such camera"
    CONTAINER_NOT_FOUND = "CONTAINER_NOT_FOUND", 404, "No such container"
    DEVICE_NOT_FOUND = "DEVICE_NOT_FOUND", 404, "No such device"
    SESSION_NOT_FOUND = "SESSION_NOT_FOUND", 404, "No such session"
    CONFLICT = "CONFLICT", 409, "Not possible in the current state"
    SESSION_ALREADY_ACTIVE = "SESSION_ALREADY_ACTIVE", 409, "Another session is open"
    SESSION_ALREADY_CLOSED = "SESSION_ALREADY_CLOSED", 409, "The session is closed"
    SESSION_NOT_RECOVERABLE = "SESSION_NOT_RECOVERABLE", 409, "The session cannot be resumed"
    DEVICE_ALREADY_PROVISIONING = "DEVICE_ALREADY_PROVISIONING", 409, "The device is being provisioned"
    DEVICE_INVALID_STATE = "DEVICE_INVALID_STATE", 409, "Not possible in the state of the device"
    MAX_RETRIES_EXCEEDED = "MAX_RETRIES_EXCEEDED", 409, "The device has failed too often"
    CONTAINER_HAS_CAMERAS = "CONTAINER_HAS_CAMERAS", 409, "The container is not empty"
    POSITION_OCCUPIED = "POSITION_OCCUPIED", 409, "The position is occupied"
    CAMERA_ALREADY_ASSIGNED = "CAMERA_ALREADY_ASSIGNED", 409, "The camera is in another container"
    SESSION_EXPIRED = "SESSION_EXPIRED", 410, "The session has expired"
    RATE_LIMITED = "RATE_LIMITED", 429, "Too many requests", 30.0
    INTERNAL_ERROR = "INTERNAL_ERROR", 500, "Internal error; the log has the details", RETRY_AFTER_S
    DATABASE_ERROR = "DATABASE_ERROR", 500, "A database read or write failed"
    CAPTURE_FAILED = "CAPTURE_FAILED", 502, "The camera sent no picture", RETRY_AFTER_S
    REBOOT_FAILED = "REBOOT_FAILED", 502, "The camera did not reboot", RETRY_AFTER_S
    DEVICE_UNREACHABLE = "DEVICE_UNREACHABLE", 502, "The device cannot be reached", RETRY_AFTER_S
    DEVICE_REJECTED = "DEVICE_REJECTED", 502, "The device rejected the request", RETRY_AFTER_S
    CAMERA_OFFLINE = "CAMERA_OFFLINE", 503, "The camera is offline", RETRY_AFTER_S
    NETWORK_ERROR = "NETWORK_ERROR", 503, "The camera network is not available", RETRY_AFTER_S
    MQTT_UNAVAILABLE = "MQTT_UNAVAILABLE", 503, "MQTT broker not connected", RETRY_AFTER_S
    CIRCUIT_OPEN = "CIRCUIT_OPEN", 503, "Paused after repeated failures", RETRY_AFTER_S
    CAPTURE_TIMEOUT = "CAPTURE_TIMEOUT", 504, "The camera sent no picture in time", RETRY_AFTER_S
    DEVICE_TIMEOUT = "DEVICE_TIMEOUT", 504, "The device did not answer in time", RETRY_AFTER_S


class LocalCode(StrEnum):
    """Codes that the API never sends: failures of the start and of the command line."""

    CONFIG_INVALID = "CONFIG_INVALID"
    STARTUP_FAILED = "STARTUP_FAILED"
    UNREACHABLE = "UNREACHABLE"


class SessionCode(StrEnum):
    """Codes of provisioning sessions and their devices, in addition to `ErrorCode`."""

    SKIPPED = "SKIPPED"
    VERIFICATION_TIMEOUT = "VERIFICATION_TIMEOUT"
    WRONG_NETWORK = "WRONG_NETWORK"
    DEVICE_CHANGED = "DEVICE_CHANGED"
    SESSION_CLOSED = "SESSION_CLOSED"
    SESSION_EXPIRING = "SESSION_EXPIRING"


class VerificationCode(StrEnum):
    """Why it was not proved that a camera holds an address."""

    SUBNET_NOT_ALLOWED = "SUBNET_NOT_ALLOWED"
    TIMEOUT = "VERIFY_TIMEOUT"
    UNREACHABLE = "VERIFY_UNREACHABLE"
    BAD_STATUS = "VERIFY_BAD_STATUS"
    BAD_BODY = "VERIFY_BAD_BODY"
    MAC_MISMATCH = "MAC_MISMATCH"
