"""`scripts/bench`: measure and print one table. A missed target does not fail the run."""

import argparse
import asyncio
import contextlib
import os
import platform
import sys
import time

from tests.bench import (
    answers,
    captures,
    full,
    idle,
    lifecycle,
    messages,
    onboarding,
    page,
    provisioning,
    streams,
    sweep,
    writes,
)
from tests.bench.environment import Environment
from tests.bench.report import as_json, table

MEASURES = (
    ("P1", sweep.network_sweep),
    ("P2", onboarding.one_camera),
    ("P3", onboarding.storm),
    ("P3", onboarding.limited_storm),
    ("P4", messages.status_messages),
    ("P5", answers.camera_list),
    ("P16", full.full_load),
    ("P6", answers.refusals),
    ("P7", writes.durable_writes),
    ("P8", streams.streams),
    ("P9", idle.many_cameras),
    ("P10 P13", lifecycle.start_and_stop),
    ("P13", streams.stop_with_streams),
    ("P15", provisioning.batch),
    ("C1", captures.captures),
    ("F1", page.first_load),
)
IDLE_MEASURES = (("P9", idle.memory), ("P11", idle.idle_cpu))
CARD_WRITES = "P12"
NEED_ROOT = {"P1", "P9", "P11", "P12", "P16"}
KNOWN = ("P1", "P2", "P3", "P4", "P5", "P6", "P7", "P8", "P9", "P10", "P11", "P12", "P13", "P15", "P16", "C1", "F1")


async def measure(selected):
    """Run the selected measures; returns rows in the order of KNOWN."""
    rows = []
    with Environment.opened() as env:
        async with contextlib.AsyncExitStack() as stack:
            card_writes = None
            if selected & {"P9", "P11", "P12"}:
                _print_progress("waiting until a daemon with fifty cameras is idle")
                daemons = await stack.enter_async_context(idle.idle_daemons(env))
                if CARD_WRITES in selected:
                    # Takes minutes. It counts the bytes that one process writes, so others may be measured meanwhile.
                    card_writes = asyncio.create_task(idle.card_writes(daemons))
                for number, function in IDLE_MEASURES:
                    if number in selected:
                        rows += await _run(number, function, daemons)
            for numbers, function in MEASURES:
                if selected & set(numbers.split()):
                    rows += await _run(numbers, function, env)
            if card_writes:
                rows += await _run(CARD_WRITES, lambda task: task, card_writes)
    rows = [row for row in rows if row.id in selected]
    return sorted(rows, key=lambda row: KNOWN.index(row.id))


async def _run(numbers, function, argument):
    _print_progress(f"{numbers} …")
    started = time.monotonic()
    rows = await function(argument)
    _print_progress(f"{numbers} took {time.monotonic() - started:.0f} s")
    return rows


def _print_progress(text):
    print(text, file=sys.stderr, flush=True)


def _machine():
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}, load before: {load}"


def main():
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measure the daemon and its references, in about ten minutes. Run nothing else meanwhile.",
        epilog="Exit codes: 0 measured, even if a target is missed; 1 a measurement failed; 2 wrong arguments.",
    )
    parser.add_argument("--only", metavar="P4,P5", default=",".join(KNOWN), help="run only these measures")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    args = parser.parse_args()
    selected = {number.strip().upper() for number in args.only.split(",")}
    if not selected <= set(KNOWN):
        parser.error(f"known measures: {', '.join(KNOWN)}")
    if os.geteuid() != 0 and selected & NEED_ROOT:
        _print_progress(f"skipped, because network namespaces need root: {', '.join(sorted(selected & NEED_ROOT))}")
        selected -= NEED_ROOT
    machine = _machine()
    try:
        rows = asyncio.run(measure(selected))
    except KeyboardInterrupt:
        sys.exit(130)
    print(as_json(rows) if args.json else f"{machine}\n\n{table(rows)}")


if __name__ == "__main__":
    main()
