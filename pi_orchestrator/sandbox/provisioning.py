"""`POST /provision` of a simulated camera: parsing, answers, and the accepted requests for tests.

An accepted request is applied once; a repeat with the same id is only answered. Here only the hash of its WiFi password
is stored (the fault provision-echo also puts the password into `last_error`). The camera itself, in `camera.py`, keeps
the accepted request until it switches networks.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from pydantic import SecretStr

from pi_orchestrator.core.errors import FieldError
from pi_orchestrator.core.identifiers import parse_container_id
from pi_orchestrator.core.validation import parse_object
from pi_orchestrator.core.wifi import Credentials, MqttAccess, check_password, parse_ssid
from pi_orchestrator.sandbox.faults import Fault

MAX_BODY_BYTES: Final = 4096
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Provisioned:
    """An accepted request, with the hash of its password only."""

    request_id: str
    ssid: str
    container_id: str | None
    password_sha256: str


@dataclass(frozen=True, kw_only=True)
class ProvisionRequest:
    """The body of `POST /provision`."""

    request_id: str
    credentials: Credentials
    mqtt: MqttAccess
    container_id: str | None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer; `accepted` is the request to apply, None if nothing changes."""

    status: HTTPStatus
    body: dict[str, Any]
    reason_phrase: str | None = None
    accepted: ProvisionRequest | None = None


class Provisioning:
    """The requests to one camera: `provisioned` lists the accepted ones without repeats.

    `requests` counts all that were received; the camera increments it. `last_error` is what the camera reports in its
    status; the camera sets it when it has joined (None) or could not join.
    """

    def __init__(self, *, fault: Fault | None) -> None:
        self.requests = 0
        self.provisioned: list[Provisioned] = []
        self.last_error: str | None = None
        self._fault = fault
        self._has_failed = False

    def handle(self, body: bytes, *, is_leaving: bool) -> Answer:
        """Answer a request and store it if accepted; a camera that `is_leaving` its network accepts no new request."""
        try:
            request = parse_request(body)
        except FieldError as exc:
            return _error_answer(HTTPStatus.UNPROCESSABLE_ENTITY, str(exc))
        if any(request.request_id == earlier.request_id for earlier in self.provisioned):
            return _accepted_answer(request, is_repeat=True)
        if answer := self._fault_answer(request):
            return answer
        if is_leaving:
            return _error_answer(HTTPStatus.CONFLICT, "the camera is joining another network")
        password = request.credentials.password.get_secret_value()
        self.provisioned.append(
            Provisioned(
                request_id=request.request_id,
                ssid=request.credentials.ssid,
                container_id=request.container_id,
                password_sha256=hashlib.sha256(password.encode()).hexdigest(),
            )
        )
        return _accepted_answer(request, is_repeat=False)

    def _fault_answer(self, request: ProvisionRequest) -> Answer | None:
        match self._fault:
            case Fault.PROVISION_REJECT:
                return _error_answer(HTTPStatus.UNPROCESSABLE_ENTITY, "provisioning is disabled")
            case Fault.PROVISION_ECHO:
                self.last_error = f"bad password {request.credentials.password.get_secret_value()}"
                return _error_answer(HTTPStatus.UNPROCESSABLE_ENTITY, self.last_error, reason_phrase=self.last_error)
            case Fault.PROVISION_500:
                return _error_answer(HTTPStatus.INTERNAL_SERVER_ERROR, "flash write failed")
            case Fault.PROVISION_FLAKY if not self._has_failed:
                self._has_failed = True
                return _error_answer(HTTPStatus.INTERNAL_SERVER_ERROR, "flash write failed")
        return None


def parse_request(body: bytes) -> ProvisionRequest:
    """Parse the JSON of the contract; FieldError names the field, never the password."""
    fields = parse_object(body, max_bytes=MAX_BODY_BYTES)
    request_id, password, container_id = fields.get("request_id"), fields.get("password"), fields.get("container_id")
    if not isinstance(request_id, str) or not _REQUEST_ID.fullmatch(request_id):
        raise FieldError("request_id must be 1 to 128 visible ASCII characters")
    if not isinstance(password, str):
        raise FieldError("password must be a string")
    check_password(password)
    if container_id is not None:
        if not isinstance(container_id, str):
            raise FieldError("container_id must be a string")
        parse_container_id(container_id)
    return ProvisionRequest(
        request_id=request_id,
        credentials=Credentials(parse_ssid(fields.get("ssid")), SecretStr(password)),
        mqtt=_parse_mqtt(fields.get("mqtt")),
        container_id=container_id,
    )


def _parse_mqtt(value: object) -> MqttAccess:
    if not isinstance(value, dict):
        raise FieldError("mqtt must be an object with host and port")
    host, port, username, password = (value.get(name) for name in ("host", "port", "username", "password"))
    if not isinstance(host, str) or not 1 <= len(host) <= 253 or not host.isprintable():
        raise FieldError("mqtt.host must be a host name or an address")
    if not isinstance(port, int) or isinstance(port, bool) or not 1 <= port <= 65_535:
        raise FieldError("mqtt.port must be a number from 1 to 65535")
    for name, text in (("username", username), ("password", password)):
        if not isinstance(text, str | None):
            raise FieldError(f"mqtt.{name} must be a string")
    return MqttAccess(host, port, username, None if password is None else SecretStr(password))


def _accepted_answer(request: ProvisionRequest, *, is_repeat: bool) -> Answer:
    body = {"accepted": True, "request_id": request.request_id}
    return Answer(status=HTTPStatus.ACCEPTED, body=body, accepted=None if is_repeat else request)


def _error_answer(status: HTTPStatus, error: str, *, reason_phrase: str | None = None) -> Answer:
    return Answer(status=status, body={"accepted": False, "error": error}, reason_phrase=reason_phrase)
