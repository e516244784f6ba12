"""NetworkManager, where it is installed, by its command `nmcli`: which WiFi interfaces it has and what they hear."""

from __future__ import annotations

from pi_orchestrator.domain import nmcli
from pi_orchestrator.domain.nmcli import Heard
from pi_orchestrator.net import programs
from pi_orchestrator.net.programs import ProgramError

ANSWER_WITHIN_S = 4.0
SCAN_WITHIN_S = 17.0
"""It waits for the radio up to 15 s by itself."""
MAX_BYTES = 256 * 1024


class NetworkManager:
    """Each question is a run of `nmcli`; NotInstalledError or ProgramError where there is no answer."""

    async def wifi_states(self) -> dict[str, str]:
        """The state of each WiFi interface (`connected`, `disconnected`, `unavailable` …)."""
        fields = ",".join(nmcli.DEVICE_FIELDS)
        return nmcli.wifi_states(await _ask("-f", fields, "device", "status", within_s=ANSWER_WITHIN_S))

    async def heard(self, *, look: bool) -> list[Heard]:
        """The networks that it knows of; `look` lets the radio look around before."""
        fields, rescan = ",".join(nmcli.LIST_FIELDS), "yes" if look else "no"
        within_s = SCAN_WITHIN_S if look else ANSWER_WITHIN_S
        return nmcli.heard(await _ask("-f", fields, "device", "wifi", "list", "--rescan", rescan, within_s=within_s))


async def _ask(*arguments: str, within_s: float) -> str:
    answer = await programs.ask("nmcli", "-t", *arguments, within_s=within_s, max_bytes=MAX_BYTES)
    if answer.code:
        raise ProgramError(f"nmcli: {answer.complaint.removeprefix('Error: ') or f'ended with code {answer.code}'}")
    return answer.output.decode("utf-8", errors="replace")
