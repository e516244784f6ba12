"""A simulated camera's end of `POST /provision`: what it was told, what it answers, and what a test can read back.

The first request with an id that is accepted changes something, once; the same id again is only answered. A password
is kept no longer than it takes to join, and nowhere as text but in the faults that are about telling it.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from pydantic import SecretStr

from pi_orchestrator.domain.container import parse_container_id
from pi_orchestrator.domain.strict_json import parse_object
from pi_orchestrator.domain.wifi import Credentials, MqttAccess, check_password, parse_ssid
from pi_orchestrator.errors import FieldError
from pi_orchestrator.sandbox.faults import Fault

MAX_BODY_BYTES: Final = 4096
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Provisioned:
    """A request that changed something; of the password a test can only check whether it was the right one."""

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
    """What is answered, and the request that has to be obeyed; None where nothing changes."""

    status: HTTPStatus
    body: dict[str, Any]
    reason: str | None = None
    obey: ProvisionRequest | None = None


class Provisioning:
    """What one camera has been asked: `requests` in all, of which those in `provisioned` changed something."""

    def __init__(self, *, fault: Fault | None) -> None:
        self.requests = 0
        self.provisioned: list[Provisioned] = []
        self.last_error: str | None = None
        self._fault = fault
        self._failed = False

    def judge(self, body: bytes, *, leaving: bool) -> Answer:
        """Answer one request, and remember it if it is accepted; a camera that is `leaving` takes no other."""
        try:
            request = parse_request(body)
        except FieldError as exc:
            return _refused(HTTPStatus.UNPROCESSABLE_ENTITY, str(exc))
        if any(request.request_id == known.request_id for known in self.provisioned):
            return _accepted(request, obey=False)
        if trouble := self._trouble(request):
            return trouble
        if leaving:
            return _refused(HTTPStatus.CONFLICT, "on the way to another network")
        password = request.credentials.password.get_secret_value()
        self.provisioned.append(
            Provisioned(
                request_id=request.request_id,
                ssid=request.credentials.ssid,
                container_id=request.container_id,
                password_sha256=hashlib.sha256(password.encode()).hexdigest(),
            )
        )
        return _accepted(request, obey=True)

    def _trouble(self, request: ProvisionRequest) -> Answer | None:
        match self._fault:
            case Fault.PROVISION_REJECT:
                return _refused(HTTPStatus.UNPROCESSABLE_ENTITY, "this camera takes no orders")
            case Fault.PROVISION_ECHO:
                self.last_error = f"bad password {request.credentials.password.get_secret_value()}"
                return _refused(HTTPStatus.UNPROCESSABLE_ENTITY, self.last_error, reason=self.last_error)
            case Fault.PROVISION_500:
                return _refused(HTTPStatus.INTERNAL_SERVER_ERROR, "flash write failed")
            case Fault.PROVISION_FLAKY if not self._failed:
                self._failed = True
                return _refused(HTTPStatus.INTERNAL_SERVER_ERROR, "flash write failed")
        return None


def parse_request(body: bytes) -> ProvisionRequest:
    """The JSON of the contract → what is in it; FieldError names the field, never the password."""
    fields = parse_object(body, max_bytes=MAX_BODY_BYTES)
    request_id, password, container_id = fields.get("request_id"), fields.get("password"), fields.get("container_id")
    if not isinstance(request_id, str) or not _REQUEST_ID.fullmatch(request_id):
        raise FieldError("request_id is 1 to 128 visible ASCII characters")
    if not isinstance(password, str):
        raise FieldError("password is text")
    check_password(password)
    if container_id is not None:
        if not isinstance(container_id, str):
            raise FieldError("container_id is text")
        parse_container_id(container_id)
    return ProvisionRequest(
        request_id=request_id,
        credentials=Credentials(parse_ssid(fields.get("ssid")), SecretStr(password)),
        mqtt=_parse_mqtt(fields.get("mqtt")),
        container_id=container_id,
    )


def _parse_mqtt(value: object) -> MqttAccess:
    if not isinstance(value, dict):
        raise FieldError("mqtt is an object with host and port")
    host, port, username, password = (value.get(name) for name in ("host", "port", "username", "password"))
    if not isinstance(host, str) or not 1 <= len(host) <= 253 or not host.isprintable():
        raise FieldError("mqtt.host is a name or an address")
    if not isinstance(port, int) or isinstance(port, bool) or not 1 <= port <= 65_535:
        raise FieldError("mqtt.port is a number from 1 to 65535")
    for name, text in (("username", username), ("password", password)):
        if not isinstance(text, str | None):
            raise FieldError(f"mqtt.{name} is text")
    return MqttAccess(host, port, username, None if password is None else SecretStr(password))


def _accepted(request: ProvisionRequest, *, obey: bool) -> Answer:
    body = {"accepted": True, "request_id": request.request_id}
    return Answer(status=HTTPStatus.ACCEPTED, body=body, obey=request if obey else None)


def _refused(status: HTTPStatus, why: str, *, reason: str | None = None) -> Answer:
    return Answer(status=status, body={"accepted": False, "error": why}, reason=reason)
