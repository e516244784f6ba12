"""A batch as text: one line for each camera, what changes, and how it ended. Nothing here asks or prints.

A session and its devices are what the API says of them, in its words; what came from a camera is made harmless.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from pi_orchestrator.cli.output import fit

Json = dict[str, Any]

UNDER_WAY = frozenset({"provisioning", "provisioned", "verifying"})
BAR = 12
MAC, STATE, ADDRESS, SIGNAL, RETRIES = 17, 12, 15, 4, 2
SMALLEST_TAIL = 12
SKIPPED, LEFT_OUT, IN_LINE = "skipped", "not listed", "in line"
RETRY = "then: pi-orchestrator sessions retry MAC"
_ORDER = ("verifying", "provisioned", "provisioning", "failed", IN_LINE, "discovered", LEFT_OUT, SKIPPED, "verified")
_REMEDIES = {
    "DEVICE_NOT_IN_ALLOWLIST": f"add it: pi-orchestrator allowlist add MAC; {RETRY}",
    "DEVICE_UNREACHABLE": f"see that it has power and is in reach; {RETRY}",
    "DEVICE_TIMEOUT": f"switch it off and on; {RETRY}",
    "DEVICE_REJECTED": "its firmware does not take this network: look at SSID and password, or update it",
    "VERIFICATION_TIMEOUT": f"see that the target network is in reach of it, and the broker from there; {RETRY}",
    "WRONG_NETWORK": "is the password right? close this session and start one with the right one",
    "MAC_MISMATCH": f"another device answers at its address: see pi-orchestrator devices MAC; {RETRY}",
    "SUBNET_NOT_ALLOWED": "its address is in no network that cameras may have: see ap.subnet and"
    " provisioning.target_subnets",
    "NO_ADDRESS": f"wait until it has an address: see pi-orchestrator devices MAC; {RETRY}",
    "VERIFY_BAD_STATUS": f"it does not answer as a camera does: look at its firmware; {RETRY}",
    "VERIFY_BAD_BODY": f"it does not answer as a camera does: look at its firmware; {RETRY}",
    "CIRCUIT_OPEN": f"too much has failed: wait a minute; {RETRY}",
    "DATABASE_ERROR": "see pi-orchestrator doctor and the daemon's log",
}
_ENDINGS = {
    "paused": ("The session is paused: nothing new is started.", "pi-orchestrator sessions resume --watch"),
    "interrupted": ("A restart of the daemon has cut the session off.", "pi-orchestrator sessions resume --watch"),
    "expired": ("The session has expired.", "pi-orchestrator sessions start"),
    "discarded": ("The session was discarded.", "pi-orchestrator sessions start"),
    "closed": ("The session was closed.", "pi-orchestrator sessions start"),
}


class Batch:
    """What is known of a session and its cameras; with `macs` of these cameras alone."""

    def __init__(self, *, macs: Iterable[str] = ()) -> None:
        self.session: Json = {}
        self._macs = frozenset(macs)
        self._devices: dict[str, Json] = {}

    @property
    def devices(self) -> list[Json]:
        """The cameras in the order in which they came."""
        return list(self._devices.values())

    def take(self, session: Json, devices: Iterable[Json]) -> None:
        """The whole state, as it was read."""
        self.session = session
        self._devices = {}
        for device in devices:
            self._put(device)

    def tell(self, type_: str, payload: Json) -> None:
        """One event of the session."""
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
        """What has stopped the session: paused, interrupted, expired, discarded, closed; None while it runs."""
        state = self.session.get("state")
        if state == "paused":
            return "interrupted" if self.session.get("interrupted") else "paused"
        if state == "closed":
            ending = self.session.get("ending")
            return ending if ending in ("expired", "discarded") else "closed"
        return None

    @property
    def under_way(self) -> int:
        """How many cameras were asked for and have come to no end."""
        return sum(str(device.get("state")) in UNDER_WAY for device in self._devices.values())

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen by itself."""
        return self.ended_by is not None or not self.under_way

    @property
    def exit_code(self) -> int:
        """1 where a camera has failed or was stopped half-way; what a person left out does not count."""
        return 1 if self.under_way or any(word(device) == "failed" for device in self._devices.values()) else 0

    def tally(self) -> Counter[str]:
        """How many cameras stand where."""
        return Counter(word(device) for device in self._devices.values())


def word(device: Json) -> str:
    """Where a camera stands, in a word or two."""
    state = str(device.get("state"))
    if state == "provisioning" and not _progress(device):
        return IN_LINE
    if state == "failed" and device.get("error_code") == "SKIPPED":
        return SKIPPED
    if state == "discovered" and not device.get("in_allowlist"):
        return LEFT_OUT
    return state


def screen(batch: Batch, *, width: int, height: int, elapsed_s: float, note: str = "") -> list[str]:
    """The batch in at most `height` lines; where that is too few, who is under way or has failed comes first."""
    devices = batch.devices
    head = [fit(_headline(batch, elapsed_s), width)]
    tail = [fit(note, width)] if note else []
    room = max(0, height - len(head) - len(tail))
    rest: list[Json] = []
    if len(devices) > room:
        room = max(0, room - 1)
        ordered = sorted(devices, key=_rank)
        devices, rest = ordered[:room], ordered[room:]
    more = [fit(f"… and {len(rest)} more: {_words(Counter(map(word, rest)))}", width)] if rest else []
    return [*head, *(camera_line(device, width=width) for device in devices), *more, *tail][:height]


def camera_line(device: Json, *, width: int) -> str:
    """A camera in one line: who, where, how far, how well heard, how often tried, and what is wrong."""
    left = width - MAC - STATE - 4
    cells = [fit(device.get("mac"), MAC).ljust(MAC)]
    if left >= ADDRESS + 2 + SMALLEST_TAIL:
        cells.append(fit(device.get("ip"), ADDRESS).ljust(ADDRESS))
        left -= ADDRESS + 2
    if left >= SIGNAL + RETRIES + 4 + SMALLEST_TAIL:
        cells.append(fit(_signal(device), SIGNAL).rjust(SIGNAL))
        cells.append(fit(_retries(device), RETRIES).ljust(RETRIES))
        left -= SIGNAL + RETRIES + 4
    cells.append(fit(word(device), STATE).ljust(STATE))
    cells.append(_tail(device, left))
    return "  ".join(cells)[:width].rstrip()


def change_line(device: Json, *, at: str, width: int) -> str:
    """A camera's last change in one line."""
    where = word(device)
    share = f" {_progress(device)} %" if where in UNDER_WAY else ""
    why = f": {_why(device)}" if where == "failed" else ""
    return fit(f"{at}  {device.get('mac')}  {device.get('ip') or '-'}  {where}{share}{why}", width)


def fingerprint(device: Json) -> tuple[object, ...]:
    """What has to differ for a change to be worth a line."""
    return (word(device), _progress(device), device.get("error_code"), device.get("retry_count"))


def summary(batch: Batch, *, elapsed_s: float) -> list[str]:
    """How it ended, in paragraphs that are yet to be wrapped: counts, what stopped it, each failure with its remedy."""
    tally = batch.tally()
    lines = []
    if ended := batch.ended_by:
        what, then = _ENDINGS[ended]
        lines.append(f"{what} To go on: {then}" if ended in ("paused", "interrupted") else what)
        if ended not in ("paused", "interrupted") and batch.under_way:
            lines.append(f"To go on with the rest: {then}")
    counted = ", ".join(
        [
            f"{tally['verified']} verified",
            f"{tally['failed']} failed",
            f"{tally[SKIPPED]} skipped",
            *([f"{batch.under_way} not finished"] if batch.under_way else []),
        ]
    )
    lines.append(f"{counted}, in {duration(elapsed_s)}.")
    if left_out := tally[LEFT_OUT]:
        lines.append(f"{left_out} not on the allowlist and left out. To add one: pi-orchestrator allowlist add MAC")
    failed: dict[str, list[Json]] = {}
    for device in batch.devices:
        if word(device) == "failed":
            failed.setdefault(str(device.get("error_code") or "unknown reason"), []).append(device)
    for code, devices in failed.items():
        lines.append(f"{code}: {_REMEDIES.get(code, f'see what it says; {RETRY}')}")
        lines += [f"  {device.get('mac')}: {device.get('error_message') or 'no reason given'}" for device in devices]
    return lines


def document(batch: Batch, *, elapsed_s: float) -> Json:
    """The same for scripts."""
    tally = batch.tally()
    return {
        "session": batch.session,
        "devices": batch.devices,
        "outcome": batch.ended_by or "done",
        "verified": tally["verified"],
        "failed": tally["failed"],
        "skipped": tally[SKIPPED],
        "not_in_allowlist": tally[LEFT_OUT],
        "not_finished": batch.under_way,
        "seconds": round(elapsed_s, 1),
    }


def duration(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"


def _headline(batch: Batch, elapsed_s: float) -> str:
    session = batch.session
    words = _words(batch.tally()) or "no cameras"
    return f"{str(session.get('id'))[:8]} {session.get('state')}  {duration(elapsed_s)}  {words}"


def _words(tally: Counter[str]) -> str:
    known = [f"{tally[one]} {one}" for one in reversed(_ORDER) if tally[one]]
    return ", ".join([*known, *(f"{count} {one}" for one, count in tally.items() if one not in _ORDER)])


def _rank(device: Json) -> int:
    where = word(device)
    return _ORDER.index(where) if where in _ORDER else len(_ORDER)


def _tail(device: Json, room: int) -> str:
    """What is wrong, or a bar with what was wrong before; what does not fit is cut."""
    where = word(device)
    if where == "failed":
        return fit(_why(device, room), room)
    if where in (LEFT_OUT, SKIPPED, "discovered"):
        return ""
    share = _progress(device)
    bar = f"{share:3} %"
    if room >= BAR + 2 + 1 + len(bar):
        done = round(BAR * share / 100)
        bar = f"[{'#' * done}{' ' * (BAR - done)}] {bar}"
    trouble = str(device.get("error_message") or "")
    # Half a word says nothing.
    return f"{bar}  {fit(trouble, room - len(bar) - 2)}" if trouble and room >= len(bar) + 10 else bar


def _why(device: Json, room: int | None = None) -> str:
    """Why it failed; the code alone where there is no room for more."""
    code, message = str(device.get("error_code") or ""), str(device.get("error_message") or "")
    if room is not None and code and len(message) > room:
        return code
    return message or code or "no reason given"


def _progress(device: Json) -> int:
    share = device.get("progress")
    return min(100, max(0, share)) if isinstance(share, int) else 0


def _signal(device: Json) -> str:
    return str(device.get("rssi") or "")


def _retries(device: Json) -> str:
    return f"x{device['retry_count']}" if device.get("retry_count") else " "
