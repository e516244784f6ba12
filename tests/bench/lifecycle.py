"""P10: from start to READY with 10,000 onboarding events. P13: from SIGTERM to the end. Each 20 times."""

import contextlib
import sqlite3
import statistics

from tests.bench.environment import daemon, wait_until_connected
from tests.bench.idle import MOONRAKER
from tests.bench.report import Row, quantile

STARTS = 20
CRASHES = 3
ONBOARDING_EVENTS = 10_000
CLEAN_SHUTDOWN_FILE = "clean-shutdown"


async def start_and_stop(env):
    """P10 and P13 of an idle daemon."""
    async with env.rig_with_cameras("lifecycle") as rig:
        _add_onboarding_events(rig.state_dir / "orchestrator.db")
        starts, stops = [], []
        for _ in range(STARTS):
            async with daemon(rig) as running:
                starts.append(running.ready - running.started)
                await wait_until_connected(running)
                stops.append(await running.stop())
        starts_after_crash = []
        for _ in range(CRASHES):
            # Without this file, the daemon checks the database first, as after a power cut.
            (rig.state_dir / CLEAN_SHUTDOWN_FILE).unlink()
            async with daemon(rig) as running:
                starts_after_crash.append(running.ready - running.started)
                await running.stop()
    start, crash, stop = statistics.median(starts), statistics.median(starts_after_crash), quantile(stops, 0.95)
    return [
        Row("P10", "start to READY, 10,000 rows", "s", start, 0.6, start / 0.6, "≤ 1.0 s", start <= 1, MOONRAKER),
        Row("P10", "… after a power cut", "s", crash, 0.6, crash / 0.6, "≤ 1.0 s", crash <= 1, MOONRAKER),
        Row("P13", "stop, p95 of 20", "s", stop, 0.2, stop / 0.2, "≤ 0.5 s", stop <= 0.5, MOONRAKER),
    ]


def _add_onboarding_events(path):
    """Copy the onboarding events of the fifty cameras until there are 10,000."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        columns = "mac_address, stage, device_id, ip_address, firmware_version, at, boot_id, monotonic, clock_trusted"
        while connection.execute("SELECT count(*) FROM onboarding_audit").fetchone()[0] < ONBOARDING_EVENTS:
            connection.execute(
                f"INSERT INTO onboarding_audit ({columns}) SELECT {columns} FROM onboarding_audit LIMIT 200"
            )
        connection.commit()
