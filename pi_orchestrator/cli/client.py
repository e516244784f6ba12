"""The daemon's API from the command line: the standard library's HTTP client, because commands must start fast."""

from __future__ import annotations

import argparse
import http.client
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from pi_orchestrator.cli.options import load_settings
from pi_orchestrator.errors import OrchestratorError, SettingsError, UnauthorizedError

TIMEOUT_S = 35.0
JSON = "application/json"
MAX_LINE_BYTES = 32 * 1024 * 1024


class UnreachableError(OrchestratorError):
    """No daemon answers there."""

    code = "UNREACHABLE"


class Client:
    """Calls one daemon; a refusal is raised as an OrchestratorError with its code."""

    def __init__(self, *, url: str, key: str | None) -> None:
        self._url = urlsplit(url)
        self._key = key
        try:
            is_url = self._url.scheme in ("http", "https") and self._url.hostname and self._url.port != 0
        except ValueError:  # the port is no number
            is_url = False
        if not is_url:
            raise SettingsError([f"--url: {url!r} is not http://ADDRESS:PORT"])

    def get(self, path: str, **query: Any) -> Any:
        """The data of a GET."""
        return self._call("GET", path, query)

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """The data of a POST."""
        return self._call("POST", path, {}, None if body is None else (JSON, json.dumps(body).encode()))

    def upload(self, path: str, file: bytes, *, media_type: str, **query: Any) -> Any:
        """The data of a POST whose body is a file."""
        return self._call("POST", path, query, (media_type, file))

    def put(self, path: str, body: dict[str, Any]) -> Any:
        """The data of a PUT."""
        return self._call("PUT", path, {}, (JSON, json.dumps(body).encode()))

    def patch(self, path: str, body: dict[str, Any]) -> Any:
        """The data of a PATCH."""
        return self._call("PATCH", path, {}, (JSON, json.dumps(body).encode()))

    def delete(self, path: str) -> Any:
        """The data of a DELETE."""
        return self._call("DELETE", path, {})

    def download(self, path: str, **query: Any) -> bytes:
        """The bytes of a GET whose answer is no JSON."""
        connection = self._connection(TIMEOUT_S)
        try:
            response = self._ask(connection, "GET", path, query, accept="*/*")
            raw = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        finally:
            connection.close()
        if response.status >= 400 or response.headers.get_content_type() == JSON:
            _data(response.status, raw)
            raise UnreachableError("that is not this daemon: its answer is no file")
        return raw

    def lines(self, path: str, *, silence_s: float = TIMEOUT_S, **query: Any) -> Iterator[bytes]:
        """The lines of an event stream as they come; ends with it, or UnreachableError when it falls silent."""
        connection = self._connection(silence_s)
        try:
            response = self._ask(connection, "GET", path, query, accept="text/event-stream")
            if response.status >= 400:
                _data(response.status, response.read())
            if response.headers.get_content_type() != "text/event-stream":
                raise UnreachableError("that is not this daemon: its answer is no event stream")
            while line := response.readline(MAX_LINE_BYTES):
                yield line
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        finally:
            connection.close()

    def _call(self, method: str, path: str, query: dict[str, Any], body: tuple[str, bytes] | None = None) -> Any:
        connection = self._connection(TIMEOUT_S)
        try:
            response = self._ask(connection, method, path, query, body)
            raw = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        finally:
            connection.close()
        return _data(response.status, raw)

    def _connection(self, timeout_s: float) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._url.scheme == "https" else http.client.HTTPConnection
        return kind(self._url.hostname or "", self._url.port, timeout=timeout_s)

    def _ask(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        query: dict[str, Any],
        body: tuple[str, bytes] | None = None,
        *,
        accept: str = JSON,
    ) -> http.client.HTTPResponse:
        given = {name: value for name, value in query.items() if value is not None}
        headers = {"Accept": accept} | ({"X-API-Key": self._key} if self._key else {})
        payload = None
        if body is not None:
            headers["Content-Type"], payload = body
        connection.request(method, f"{path}?{urlencode(given)}" if given else path, payload, headers)
        return connection.getresponse()

    def _unreachable(self, error: Exception) -> UnreachableError:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        return UnreachableError(
            f"no daemon answers at {self._url.geturl()}: {why}",
            details="is it running? see: systemctl status pi-orchestrator, or name it with --url",
        )


def connect(args: argparse.Namespace) -> Client:
    """A client for the daemon that the arguments or the configuration name, with a key if one is at hand.

    The keys of this machine go to this machine only; for another, PIORCH_API_KEY has to name one.
    """
    url = args.url or os.environ.get("PIORCH_URL")
    key = os.environ.get("PIORCH_API_KEY")
    if url and not _is_here(url):
        return Client(url=url, key=key)
    try:
        settings = load_settings(args).settings
    except SettingsError:
        if not url:
            raise
        # Whoever names the daemon need not be allowed to read its configuration.
        return Client(url=url, key=key)
    if not url:
        first = settings.http.listen[0]
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(first.host, first.host)
        url = f"http://[{host}]:{first.port}" if ":" in host else f"http://{host}:{first.port}"
    if not key and settings.auth.api_key:
        key = settings.auth.api_key.get_secret_value()
    return Client(url=url, key=key or _admin_key(settings.storage.state_dir))


def _is_here(url: str) -> bool:
    from ipaddress import ip_address

    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _admin_key(state_dir: Path) -> str | None:
    from pi_orchestrator.storage.state_dir import ADMIN_KEY

    try:
        return (state_dir / ADMIN_KEY).read_text(encoding="utf-8").strip()
    except OSError:
        return None


def _data(status: int, raw: bytes) -> Any:
    try:
        answer = json.loads(raw) if raw else None
    except ValueError as error:
        raise UnreachableError("that is not this daemon: its answer is not JSON") from error
    if status < 400:
        return answer["data"] if isinstance(answer, dict) and "data" in answer else answer
    fault = answer.get("error", {}) if isinstance(answer, dict) else {}
    if status == 401:
        raise UnauthorizedError(
            fault.get("message", "this needs an API key"),
            details="set PIORCH_API_KEY, or run this as a user who may read admin.key in the state folder",
        )
    raise OrchestratorError(
        fault.get("message", f"the daemon answered {status}"), code=fault.get("code"), details=fault.get("details")
    )
