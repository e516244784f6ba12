"""A watched session as text: a line for each camera, changes, and the outcome. Sends no request and prints nothing.

Session and devices are JSON as the API returns them; text from cameras is made safe for a terminal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from pi_orchestrator.cli.output import fit
from pi_orchestrator.core.error_codes import ErrorCode, SessionCode, VerificationCode

Json = dict[str, Any]

UNDER_WAY = frozenset({"provisioning", "provisioned", "verifying"})
BAR_WIDTH = 12
MAC_WIDTH, STATE_WIDTH, ADDRESS_WIDTH, SIGNAL_WIDTH, RETRIES_WIDTH = 17, 12, 15, 4, 2
"""Widths of the columns, which are two spaces apart."""
MIN_PROGRESS_WIDTH = 12
SKIPPED, UNLISTED, QUEUED = "skipped", "not listed", "queued"
RETRY = "then: pi-orchestrator sessions retry MAC"
_ORDER = ("verifying", "provisioned", "provisioning", "failed", QUEUED, "discovered", UNLISTED, SKIPPED, "verified")
"""State labels in the order in which devices are shown if not all fit; counts are in the reverse order."""
_ADVICE = {
    ErrorCode.DEVICE_NOT_IN_ALLOWLIST: f"add it: pi-orchestrator allowlist add MAC; {RETRY}",
    ErrorCode.DEVICE_UNREACHABLE: f"check its power and its WiFi range; {RETRY}",
    ErrorCode.DEVICE_TIMEOUT: f"power it off and on; {RETRY}",
    ErrorCode.DEVICE_REJECTED: "its firmware rejected this network: check SSID and password, or update the firmware",
    SessionCode.VERIFICATION_TIMEOUT: "check that it can reach the target network, and from there the MQTT broker;"
    f" {RETRY}",
    SessionCode.WRONG_NETWORK: "check the password; to change it, close this session and start a new one",
    SessionCode.DEVICE_CHANGED: "a MAC can be copied; if it is your camera: pi-orchestrator sessions confirm MAC",
    VerificationCode.MAC_MISMATCH: f"another device answers at its address: see pi-orchestrator devices MAC; {RETRY}",
    VerificationCode.SUBNET_NOT_ALLOWED: "its address is not in an allowed network: check ap.subnet and"
    " provisioning.target_subnets",
    "NO_ADDRESS": f"wait until it has an address: see pi-orchestrator devices MAC; {RETRY}",
    VerificationCode.BAD_STATUS: f"it does not answer like a camera: check its firmware; {RETRY}",
    VerificationCode.BAD_BODY: f"it does not answer like a camera: check its firmware; {RETRY}",
    ErrorCode.CIRCUIT_OPEN: f"too many failures: wait a minute; {RETRY}",
    ErrorCode.DATABASE_ERROR: "see pi-orchestrator doctor and the daemon's log",
}
_ENDINGS = {  # why the session stopped → text, and the command that continues
    "paused": ("The session is paused: nothing new is started.", "pi-orchestrator sessions resume --watch"),
    "interrupted": ("A restart of the daemon interrupted the session.", "pi-orchestrator sessions resume --watch"),
    "expired": ("The session has expired.", "pi-orchestrator sessions start"),
    "discarded": ("The session was discarded.", "pi-orchestrator sessions start"),
    "closed": ("The session was closed.", "pi-orchestrator sessions start"),
}


class WatchedSession:
    """A session and its devices; only the devices in `macs`, unless it is empty."""

    def __init__(self, *, macs: Iterable[str] = ()) -> None:
        self.session: Json = {}
        self._macs = frozenset(macs)
        self._devices: dict[str, Json] = {}

    @property
    def devices(self) -> list[Json]:
        """The devices in the order of joining."""
        return list(self._devices.values())

    def replace(self, session: Json, devices: Iterable[Json]) -> None:
        """Replace the whole state."""
        self.session = session
        self._devices = {}
        for device in devices:
            self._put(device)

    def update(self, type_: str, payload: Json) -> None:
        """Apply an event of the session."""
        if type_ == "session.status" and isinstance(payload.get("session"), dict):
            self.session = payload["session"]
        elif isinstance(payload.get("device"), dict):
            self._put(payload["device"])

    def _put(self, device: Json) -> None:
        mac = str(device.get("mac"))
        if not self._macs or mac in self._macs:
            self._devices[mac] = device

    @property
    def ended_by(self) -> str | None:
        """Why the session stopped: paused, interrupted, expired, discarded or closed; None while it runs."""
        state = self.session.get("state")
        if state == "paused":
            return "interrupted" if self.session.get("interrupted") else "paused"
        if state == "closed":
            ending = self.session.get("ending")
            return ending if ending in ("expired", "discarded") else "closed"
        return None

    @property
    def under_way(self) -> int:
        """Number of devices whose provisioning was requested and that are neither verified nor failed."""
        return sum(str(device.get("state")) in UNDER_WAY for device in self._devices.values())

    @property
    def is_over(self) -> bool:
        """Whether nothing more happens without an operator."""
        return self.ended_by is not None or not self.under_way

    @property
    def exit_code(self) -> int:
        """1 if a device has failed or is not finished, else 0; skipped devices do not count."""
        return 1 if self.under_way or any(state_label(device) == "failed" for device in self._devices.values()) else 0

    def tally(self) -> Counter[str]:
        """Number of devices by state label."""
        return Counter(state_label(device) for device in self._devices.values())


def state_label(device: Json) -> str:
    """A device's state as one or two words."""
    state = str(device.get("state"))
    if state == "provisioning" and not _progress(device):
        return QUEUED
    if state == "failed" and device.get("error_code") == SessionCode.SKIPPED:
        return SKIPPED
    if state == "discovered" and not device.get("in_allowlist"):
        return UNLISTED
    return state


def screen(watched: WatchedSession, *, width: int, height: int, elapsed_s: float, note: str = "") -> list[str]:
    """The session in at most `height` lines; if not all devices fit, those under way and failed ones come first."""
    devices = watched.devices
    head = [fit(_headline(watched, elapsed_s), width)]
    tail = [fit(note, width)] if note else []
    rows = max(0, height - len(head) - len(tail))
    rest: list[Json] = []
    if len(devices) > rows:
        rows = max(0, rows - 1)
        ordered = sorted(devices, key=_rank)
        devices, rest = ordered[:rows], ordered[rows:]
    more = [fit(f"… and {len(rest)} more: {_counts_text(Counter(map(state_label, rest)))}", width)] if rest else []
    return [*head, *(camera_line(device, width=width) for device in devices), *more, *tail][:height]


def camera_line(device: Json, *, width: int) -> str:
    """A device in one line: MAC, address, signal, retries, state, progress and error."""
    left = width - MAC_WIDTH - STATE_WIDTH - 4
    cells = [fit(device.get("mac"), MAC_WIDTH).ljust(MAC_WIDTH)]
    if left >= ADDRESS_WIDTH + 2 + MIN_PROGRESS_WIDTH:
        cells.append(fit(device.get("ip"), ADDRESS_WIDTH).ljust(ADDRESS_WIDTH))
        left -= ADDRESS_WIDTH + 2
    if left >= SIGNAL_WIDTH + RETRIES_WIDTH + 4 + MIN_PROGRESS_WIDTH:
        cells.append(fit(_signal(device), SIGNAL_WIDTH).rjust(SIGNAL_WIDTH))
        cells.append(fit(_retries(device), RETRIES_WIDTH).ljust(RETRIES_WIDTH))
        left -= SIGNAL_WIDTH + RETRIES_WIDTH + 4
    cells.append(fit(state_label(device), STATE_WIDTH).ljust(STATE_WIDTH))
    cells.append(_progress_text(device, left))
    return "  ".join(cells)[:width].rstrip()


def change_line(device: Json, *, at: str, width: int) -> str:
    """A device's present state in one line, with the time `at` of its change."""
    label = state_label(device)
    percent = f" {_progress(device)} %" if label in UNDER_WAY else ""
    error = f": {_error_text(device)}" if label == "failed" else ""
    return fit(f"{at}  {device.get('mac')}  {device.get('ip') or '-'}  {label}{percent}{error}", width)


def changed_texts(device: Json) -> list[str]:
    """What a device answers differently than when it was first seen."""
    return [str(part.get("text")) for part in device.get("fingerprint_changes") or ()]


def printed_fields(device: Json) -> tuple[object, ...]:
    """The fields of a device whose change is worth a new line."""
    return (state_label(device), _progress(device), device.get("error_code"), device.get("retry_count"))


def summary(watched: WatchedSession, *, elapsed_s: float) -> list[str]:
    """The outcome as unwrapped paragraphs: why it stopped, counts, and each failure with advice."""
    tally = watched.tally()
    lines = []
    if ending := watched.ended_by:
        text, command = _ENDINGS[ending]
        lines.append(f"{text} To continue: {command}" if ending in ("paused", "interrupted") else text)
        if ending not in ("paused", "interrupted") and watched.under_way:
            lines.append(f"To continue with the rest: {command}")
    counts = ", ".join(
        [
            f"{tally['verified']} verified",
            f"{tally['failed']} failed",
            f"{tally[SKIPPED]} skipped",
            *([f"{watched.under_way} not finished"] if watched.under_way else []),
        ]
    )
    lines.append(f"{counts}, in {duration(elapsed_s)}.")
    if unlisted := tally[UNLISTED]:
        lines.append(f"{unlisted} not provisioned: not on the allowlist. To add one: pi-orchestrator allowlist add MAC")
    lines += [
        f"{device.get('mac')} changed since first seen: {'; '.join(changed)}"
        for device in watched.devices
        if (changed := changed_texts(device))
    ]
    failed: dict[str, list[Json]] = {}
    for device in watched.devices:
        if state_label(device) == "failed":
            failed.setdefault(str(device.get("error_code") or "unknown reason"), []).append(device)
    for code, devices in failed.items():
        lines.append(f"{code}: {_ADVICE.get(code, f'see the messages below; {RETRY}')}")
        lines += [f"  {device.get('mac')}: {device.get('error_message') or 'no reason given'}" for device in devices]
    return lines


def document(watched: WatchedSession, *, elapsed_s: float) -> Json:
    """The outcome as JSON, for scripts."""
    tally = watched.tally()
    return {
        "session": watched.session,
        "devices": watched.devices,
        "outcome": watched.ended_by or "done",
        "verified": tally["verified"],
        "failed": tally["failed"],
        "skipped": tally[SKIPPED],
        "not_in_allowlist": tally[UNLISTED],
        "not_finished": watched.under_way,
        "seconds": round(elapsed_s, 1),
    }


def duration(seconds: float) -> str:
    """A duration as text, such as `3 min 20 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"


def _headline(watched: WatchedSession, elapsed_s: float) -> str:
    session = watched.session
    counts = _counts_text(watched.tally()) or "no cameras"
    return f"{str(session.get('id'))[:8]} {session.get('state')}  {duration(elapsed_s)}  {counts}"


def _counts_text(tally: Counter[str]) -> str:
    ordered = [f"{tally[state]} {state}" for state in reversed(_ORDER) if tally[state]]
    return ", ".join([*ordered, *(f"{count} {state}" for state, count in tally.items() if state not in _ORDER)])


def _rank(device: Json) -> int:
    label = state_label(device)
    return _ORDER.index(label) if label in _ORDER else len(_ORDER)


def _progress_text(device: Json, width: int) -> str:
    """The error, or a progress bar and the error of the last attempt, in at most `width` columns."""
    label = state_label(device)
    if label == "failed":
        return fit(_error_text(device, width), width)
    if label in (UNLISTED, SKIPPED, "discovered"):
        return ""
    percent = _progress(device)
    bar = f"{percent:3} %"
    if width >= BAR_WIDTH + 2 + 1 + len(bar):
        done = round(BAR_WIDTH * percent / 100)
        bar = f"[{'#' * done}{' ' * (BAR_WIDTH - done)}] {bar}"
    error = str(device.get("error_message") or "")
    # Omit the error if only a fragment of a word would fit.
    return f"{bar}  {fit(error, width - len(bar) - 2)}" if error and width >= len(bar) + 10 else bar


def _error_text(device: Json, width: int | None = None) -> str:
    """The error message, or only its code if the message does not fit in `width`."""
    code, message = str(device.get("error_code") or ""), str(device.get("error_message") or "")
    if width is not None and code and len(message) > width:
        return code
    return message or code or "no reason given"


def _progress(device: Json) -> int:
    percent = device.get("progress")
    return min(100, max(0, percent)) if isinstance(percent, int) else 0


def _signal(device: Json) -> str:
    return str(device.get("rssi") or "")


def _retries(device: Json) -> str:
    return f"x{device['retry_count']}" if device.get("retry_count") else " "
