"""WiFi interfaces and networks from NetworkManager, by its command `nmcli`."""

from __future__ import annotations

from pi_orchestrator.net.host import programs
from pi_orchestrator.net.host.programs import ProgramError
from pi_orchestrator.net.wifi import nmcli
from pi_orchestrator.net.wifi.nmcli import ListedNetwork

ANSWER_TIMEOUT_S = 4.0
SCAN_TIMEOUT_S = 17.0
"""nmcli itself waits up to 15 s for a scan."""
MAX_BYTES = 256 * 1024


class NetworkManager:
    """Runs `nmcli` for each request; NotInstalledError or ProgramError if there is no result."""

    async def wifi_states(self) -> dict[str, str]:
        """The state of each WiFi interface (`connected`, `disconnected`, `unavailable` …)."""
        fields = ",".join(nmcli.DEVICE_FIELDS)
        return nmcli.wifi_states(await _run("-f", fields, "device", "status", timeout_s=ANSWER_TIMEOUT_S))

    async def networks(self, *, rescan: bool) -> list[ListedNetwork]:
        """The networks that NetworkManager lists; `rescan` starts a scan first."""
        fields, option = ",".join(nmcli.LIST_FIELDS), "yes" if rescan else "no"
        timeout_s = SCAN_TIMEOUT_S if rescan else ANSWER_TIMEOUT_S
        output = await _run("-f", fields, "device", "wifi", "list", "--rescan", option, timeout_s=timeout_s)
        return nmcli.wifi_networks(output)


async def _run(*arguments: str, timeout_s: float) -> str:
    result = await programs.run("nmcli", "-t", *arguments, timeout_s=timeout_s, max_bytes=MAX_BYTES)
    if result.exit_code:
        reason = result.error_text.removeprefix("Error: ") or f"exited with code {result.exit_code}"
        raise ProgramError(f"nmcli: {reason}")
    return result.output.decode("utf-8", errors="replace")
