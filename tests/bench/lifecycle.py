"""P10: from start to READY with 10,000 audit rows. P13: from SIGTERM to the end. Twenty times each."""

import contextlib
import sqlite3
import statistics

from tests.bench.report import Row, quantile
from tests.bench.rest import MOONRAKER
from tests.bench.stage import connected, daemon

STARTS = 20
CRASHES = 3
AUDIT_ROWS = 10_000
CLEAN_MARKER = "clean-shutdown"


async def start_and_stop(stage):
    async with stage.settled_world("lifecycle") as rig:
        _fill_audit(rig.state_dir / "orchestrator.db")
        starts, stops = [], []
        for _ in range(STARTS):
            async with daemon(rig) as running:
                starts.append(running.ready - running.started)
                await connected(running)
                stops.append(await running.stop())
        checked = []
        for _ in range(CRASHES):
            # Without the marker, the daemon checks the database first, as after a power cut.
            (rig.state_dir / CLEAN_MARKER).unlink()
            async with daemon(rig) as running:
                checked.append(running.ready - running.started)
                await running.stop()
    start, after_cut, stop = statistics.median(starts), statistics.median(checked), quantile(stops, 0.95)
    return [
        Row("P10", "start to READY, 10,000 rows", "s", start, 0.6, start / 0.6, "≤ 1.0 s", start <= 1, MOONRAKER),
        Row("P10", "… after a power cut", "s", after_cut, 0.6, after_cut / 0.6, "≤ 1.0 s", after_cut <= 1, MOONRAKER),
        Row("P13", "stop, p95 of 20", "s", stop, 0.2, stop / 0.2, "≤ 0.5 s", stop <= 0.5, MOONRAKER),
    ]


def _fill_audit(path):
    """Copy the rows of the fifty cameras until there are enough."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        columns = "mac_address, stage, device_id, ip_address, firmware_version, at, boot_id, monotonic, clock_trusted"
        while connection.execute("SELECT count(*) FROM onboarding_audit").fetchone()[0] < AUDIT_ROWS:
            connection.execute(
                f"INSERT INTO onboarding_audit ({columns}) SELECT {columns} FROM onboarding_audit LIMIT 200"
            )
        connection.commit()
