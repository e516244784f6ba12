"""API client of the command line; uses the standard library, because commands must start fast."""

from __future__ import annotations

import argparse
import http.client
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from pi_orchestrator.cli.options import load_settings
from pi_orchestrator.core.error_codes import LocalCode
from pi_orchestrator.core.errors import ArgumentsError, OrchestratorError, SettingsError, UnauthorizedError

if TYPE_CHECKING:
    from pi_orchestrator.settings import Settings

TIMEOUT_S = 35.0
"""Longer than a capture may take (30 s)."""
JSON = "application/json"
MAX_LINE_BYTES = 32 * 1024 * 1024
"""Limit of a line of an event stream; even the list of all cameras is one line."""
WRONG_SERVER = "check that the URL is the daemon's (--url)"


class UnreachableError(OrchestratorError):
    """Nothing responds at the URL, or something that is not the daemon."""

    code: str = LocalCode.UNREACHABLE


class Client:
    """Client of one daemon; raises an error response as OrchestratorError with its code."""

    def __init__(self, *, url: str, key: str | None, timeout_s: float = TIMEOUT_S) -> None:
        self._url = urlsplit(url)
        self._key = key
        self._timeout_s = timeout_s
        try:
            is_url = self._url.scheme in ("http", "https") and self._url.hostname and self._url.port != 0
        except ValueError:  # the port is not a number
            is_url = False
        if not is_url:
            raise ArgumentsError([f"--url: {url!r} is not http://ADDRESS:PORT"])

    def get(self, path: str, **query: Any) -> Any:
        """Send GET; returns the data of the response."""
        return self._call("GET", path, query)

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Send POST with a JSON body; returns the data of the response."""
        return self._call("POST", path, {}, None if body is None else (JSON, json.dumps(body).encode()))

    def upload(self, path: str, file: bytes, *, media_type: str, **query: Any) -> Any:
        """Send POST with a file as body; returns the data of the response."""
        return self._call("POST", path, query, (media_type, file))

    def put(self, path: str, body: dict[str, Any]) -> Any:
        """Send PUT; returns the data of the response."""
        return self._call("PUT", path, {}, (JSON, json.dumps(body).encode()))

    def patch(self, path: str, body: dict[str, Any]) -> Any:
        """Send PATCH; returns the data of the response."""
        return self._call("PATCH", path, {}, (JSON, json.dumps(body).encode()))

    def delete(self, path: str) -> Any:
        """Send DELETE; returns the data of the response."""
        return self._call("DELETE", path, {})

    def download(self, path: str, **query: Any) -> bytes:
        """Send GET; returns the body of a response that is not JSON."""
        connection = self._connection(TIMEOUT_S)
        try:
            response = self._request(connection, "GET", path, query, accept="*/*")
            raw = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        finally:
            connection.close()
        if response.status >= 400 or response.headers.get_content_type() == JSON:
            _data(response.status, raw)
            raise UnreachableError("unexpected response: not a file", details=WRONG_SERVER)
        return raw

    def lines(self, path: str, *, silence_s: float = TIMEOUT_S, **query: Any) -> Iterator[bytes]:
        """The lines of an event stream; ends with the stream. UnreachableError after `silence_s` without data."""
        connection = self._connection(silence_s)
        try:
            response = self._request(connection, "GET", path, query, accept="text/event-stream")
            if response.status >= 400:
                _data(response.status, response.read())
            if response.headers.get_content_type() != "text/event-stream":
                raise UnreachableError("unexpected response: not an event stream", details=WRONG_SERVER)
            while line := response.readline(MAX_LINE_BYTES):
                yield line
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        finally:
            connection.close()

    def _call(self, method: str, path: str, query: dict[str, Any], body: tuple[str, bytes] | None = None) -> Any:
        connection = self._connection(self._timeout_s)
        try:
            response = self._request(connection, method, path, query, body)
            raw = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        finally:
            connection.close()
        return _data(response.status, raw)

    def _connection(self, timeout_s: float) -> http.client.HTTPConnection:
        connection_type = http.client.HTTPSConnection if self._url.scheme == "https" else http.client.HTTPConnection
        return connection_type(self._url.hostname or "", self._url.port, timeout=timeout_s)

    def _request(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        query: dict[str, Any],
        body: tuple[str, bytes] | None = None,
        *,
        accept: str = JSON,
    ) -> http.client.HTTPResponse:
        parameters = {name: value for name, value in query.items() if value is not None}
        headers = {"Accept": accept} | ({"X-API-Key": self._key} if self._key else {})
        payload = None
        if body is not None:
            headers["Content-Type"], payload = body
        connection.request(method, f"{path}?{urlencode(parameters)}" if parameters else path, payload, headers)
        return connection.getresponse()

    def _unreachable(self, error: Exception) -> UnreachableError:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        return UnreachableError(
            f"no daemon responds at {self._url.geturl()}: {reason}",
            details="check: systemctl status pi-orchestrator, or give the daemon's URL with --url",
        )


def connect(args: argparse.Namespace) -> Client:
    """A client for the daemon named by the arguments or the configuration, with an API key if available.

    The keys of the configuration and of the state folder are sent to this machine only; for another machine set
    PIORCH_API_KEY.
    """
    url = args.url or os.environ.get("PIORCH_URL")
    key = os.environ.get("PIORCH_API_KEY")
    if url and (key or not _is_local(url)):
        return Client(url=url, key=key)
    try:
        settings = load_settings(args).settings
    except SettingsError:
        if not url:
            raise
        # With a URL the configuration is optional: this user may not be allowed to read it.
        return Client(url=url, key=key)
    return connect_to(settings, url=url, key=key)


def connect_to(
    settings: Settings, *, url: str | None = None, key: str | None = None, timeout_s: float = TIMEOUT_S
) -> Client:
    """A client for the daemon of this machine with these settings."""
    if not url:
        url = settings.http.listen[0].url
    if not key and settings.auth.api_key:
        key = settings.auth.api_key.get_secret_value()
    return Client(url=url, key=key or _admin_key(settings.storage.state_dir), timeout_s=timeout_s)


def _is_local(url: str) -> bool:
    from ipaddress import ip_address

    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _admin_key(state_dir: Path) -> str | None:
    from pi_orchestrator.storage.files import ADMIN_KEY

    try:
        return (state_dir / ADMIN_KEY).read_text(encoding="utf-8").strip()
    except OSError:
        return None


def _data(status: int, raw: bytes) -> Any:
    """The `data` of an envelope, or a document without envelope; raises an error response as OrchestratorError."""
    try:
        document = json.loads(raw) if raw else None
    except ValueError as error:
        raise UnreachableError("unexpected response: not JSON", details=WRONG_SERVER) from error
    if status < 400:
        return document["data"] if isinstance(document, dict) and "data" in document else document
    failure = document.get("error", {}) if isinstance(document, dict) else {}
    if status == 401:
        raise UnauthorizedError(
            failure.get("message", "an API key is required"),
            details="set PIORCH_API_KEY, or run this as a user who may read admin.key in the state folder"
            " (--state-dir)",
        )
    raise OrchestratorError(
        failure.get("message", f"the daemon returned status {status}"),
        code=failure.get("code"),
        details=failure.get("details"),
    )
